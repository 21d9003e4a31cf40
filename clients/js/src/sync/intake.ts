/**
 * From the server's frames to one batch. Frames that have come together are taken in together: their
 * effects are laid over what the device has, and become durable at once.
 */

import { received } from './cells.js'
import { EMPTY_HASH, hashWith } from './catalog.js'
import { nowMs } from './clock.js'
import type { Columns, Delta, DeltaChange, Definition, MutationName, Reject, SnapshotChunk, SyncValue, WireVerdict } from './messages.js'
import { keys, type DocumentRecord, type Meta, type Pending, type Rejection, type Replica, type ShapeRecord } from './replica.js'
import type { Batch, Key } from './store.js'
import { keyText, lsnOf, sameBytes, toHex } from './values.js'

export class Intake {
  /** What entries become; `undefined`: gone. */
  readonly #overlay = new Map<Key, unknown>()
  #diverged = false

  constructor(
    private readonly replica: Replica,
    private readonly meta: Meta,
  ) {}

  /** Whether the definitions here are others than the server's: they are to be sent again. */
  get hasDiverged(): boolean {
    return this.#diverged
  }

  batch(): Batch {
    const batch: Batch = { put: [], remove: [] }
    for (const [key, value] of this.#overlay) {
      if (value === undefined) batch.remove.push(key)
      else batch.put.push([key, value])
    }
    return batch
  }

  #document(collection: string, id: readonly SyncValue[]): DocumentRecord | undefined {
    const key = keys.document(collection, id)
    if (this.#overlay.has(key)) return this.#overlay.get(key) as DocumentRecord | undefined
    return this.replica.image(collection, keyText(id))
  }

  #setDocument(record: DocumentRecord): void {
    const key = keys.document(record.collection, record.id)
    this.#overlay.set(key, Object.keys(record.shapes).length > 0 ? record : undefined)
  }

  #shape(id: number): ShapeRecord | undefined {
    const key = keys.shape(id)
    return (this.#overlay.has(key) ? this.#overlay.get(key) : this.replica.shapes.get(id)) as ShapeRecord | undefined
  }

  #mutation(seq: number): Pending | undefined {
    const key = keys.mutation(seq)
    return (this.#overlay.has(key) ? this.#overlay.get(key) : this.replica.pending.get(seq)) as Pending | undefined
  }

  /** Every document of a collection, what is laid over it included. */
  *#documents(collection: string): Generator<DocumentRecord> {
    for (const record of this.replica.images(collection)) {
      const now = this.#document(collection, record.id)
      if (now) yield now
    }
    for (const [key, value] of [...this.#overlay]) {
      if (!key.startsWith('doc/') || value === undefined) continue
      const record = value as DocumentRecord
      if (record.collection === collection && !this.replica.image(collection, keyText(record.id))) yield record
    }
  }

  snapshot(chunk: SnapshotChunk): void {
    const held = this.#shape(chunk.shape)
    if (held === undefined) return
    const record: ShapeRecord = {
      ...held,
      pass: held.pass + (chunk.first ? 1 : 0),
      complete: chunk.done !== undefined,
      key: chunk.columns.slice(0, chunk.key),
      names: chunk.columns,
    }
    delete record.resume
    if (chunk.resume !== undefined) record.resume = chunk.resume
    this.#overlay.set(keys.shape(chunk.shape), record)
    const collection = record.shape.in
    for (const row of chunk.rows) {
      const id = row.slice(0, chunk.key)
      const before = this.#document(collection, id)
      const sent: Columns = {}
      chunk.columns.forEach((name, at) => (sent[name] = row[at] ?? null))
      const columns: Columns = { ...before?.columns, ...received(before?.columns, sent) }
      this.#setDocument({ collection, id, columns, shapes: { ...before?.shapes, [chunk.shape]: record.pass } })
    }
    if (chunk.done === undefined) return
    for (const document of this.#documents(collection)) {
      const pass = document.shapes[chunk.shape]
      if (pass !== undefined && pass !== record.pass) this.#leave(document, [chunk.shape])
    }
    for (const name of chunk.done.decided ?? []) this.#decided(name)
    this.#reached(chunk.done.cursor, false)
  }

  /** One commit: all frames of it at once. */
  delta(frames: Delta[]): void {
    for (const frame of frames) {
      for (const change of frame.changes ?? []) this.#change(change)
      if (frame.own && this.#isOwn(frame.own)) this.#overlay.set(keys.mutation(frame.own.seq), undefined)
    }
    const last = frames[frames.length - 1]
    if (last) this.#reached(last.cursor, true)
  }

  #change(change: DeltaChange): void {
    const shapes = change.of.flatMap((id) => this.#shape(id) ?? [])
    const collection = shapes[0]?.shape.in
    if (collection === undefined) return
    if (change.clear) {
      for (const document of this.#documents(collection)) this.#leave(document, change.of)
      return
    }
    const id = change.id ?? []
    const before = this.#document(collection, id)
    if (change.put) {
      const columns: Columns = { ...before?.columns, ...received(before?.columns, change.put) }
      shapes[0]?.key?.forEach((name, at) => (columns[name] ??= id[at] ?? null))
      const held = { ...before?.shapes }
      for (const { shape, pass } of shapes) held[shape.shape] = pass
      this.#setDocument({ collection, id, columns, shapes: held })
    } else if (before === undefined || !change.of.some((shape) => shape in before.shapes)) {
      // A snapshot chunk that is newer than this delta has told already, or will tell.
      return
    } else if (change.set) {
      this.#setDocument({ ...before, columns: { ...before.columns, ...received(before.columns, change.set) } })
    } else if (change.delete) {
      this.#overlay.set(keys.document(collection, id), undefined)
    } else if (change.leave) {
      this.#leave(before, change.of)
    }
  }

  /** A document leaves shapes, and with them the columns that the others do not show. */
  #leave(document: DocumentRecord, shapes: number[]): void {
    const left = { ...document.shapes }
    for (const shape of shapes) delete left[shape]
    const names = Object.keys(left).map((id) => this.#shape(Number(id))?.names)
    const shown = names.includes(undefined) ? undefined : new Set(names.flatMap((columns) => columns ?? []))
    const columns = Object.entries(document.columns).filter(([name]) => shown?.has(name) ?? true)
    this.#setDocument({ ...document, columns: Object.fromEntries(columns), shapes: left })
  }

  /** A shape has ended: its rows leave. */
  shapeEnded(id: number): void {
    const record = this.#shape(id)
    if (record === undefined) return
    for (const document of this.#documents(record.shape.in)) {
      if (id in document.shapes) this.#leave(document, [id])
    }
    this.#overlay.set(keys.shape(id), undefined)
  }

  /** These shapes (none: all) are sent again from the beginning. */
  resync(shapes: number[]): void {
    const all = [...this.replica.shapes.keys()]
    // The first snapshot that is complete says where the image is; the old place may be of a lost history.
    if (shapes.length === 0 || all.every((id) => shapes.includes(id))) delete this.meta.cursor
    for (const id of shapes.length > 0 ? shapes : all) {
      const record = this.#shape(id)
      if (record === undefined) continue
      const again: ShapeRecord = { ...record, complete: false }
      delete again.resume
      this.#overlay.set(keys.shape(id), again)
    }
  }

  /** Mutations from `seq` on wait for a producer of their own. */
  hold(seq: number): void {
    this.meta.heldFrom ??= seq
  }

  verdict(verdict: WireVerdict): void {
    const mutation = this.#mutation(verdict.seq)
    const lsn = verdict.applied ?? verdict.duplicate
    if (mutation === undefined || lsn === undefined) return
    // What its commit did may never be in a shape of this device: then the cursor alone tells.
    const isShown = mutation.inImage || (this.meta.cursor !== undefined && lsnOf(this.meta.cursor) >= lsn)
    this.#overlay.set(keys.mutation(verdict.seq), isShown ? undefined : { ...mutation, appliedLsn: lsn })
  }

  reject(reject: Reject): void {
    const mutation = this.#mutation(reject.seq)
    if (mutation === undefined || mutation.appliedLsn !== undefined || !this.#isOwn(reject)) return
    this.#overlay.set(keys.mutation(reject.seq), undefined)
    const rejection: Rejection = {
      id: `${toHex(reject.producer)}-${reject.generation}-${reject.seq}`,
      operations: mutation.operations,
      base: mutation.base,
      violation: reject.violation,
      hint: reject.hint ?? { kind: 'none' },
      deadLetterId: reject.dead_letter_id,
      madeAtMs: mutation.madeAtMs,
      rejectedAtMs: nowMs(),
    }
    if (reject.chain !== undefined) rejection.chain = reject.chain
    this.#overlay.set(keys.rejection(rejection.id), rejection)
  }

  /** Definitions in log order; with `isWhole` they are all there are, and others go. */
  definitions(definitions: Definition[], isWhole: boolean): void {
    if (isWhole) {
      for (const key of this.replica.definitions.keys()) this.#overlay.set(key, undefined)
      this.meta.catalogHash = EMPTY_HASH
    }
    for (const definition of definitions) {
      const key = keys.definition(definition.type, definition.name)
      const before = (this.#overlay.has(key) ? this.#overlay.get(key) : this.replica.definitions.get(key)) as
        | Definition
        | undefined
      if (before) this.meta.catalogHash = hashWith(this.meta.catalogHash, before, -1)
      const isPut = definition.action === 'put'
      if (isPut) this.meta.catalogHash = hashWith(this.meta.catalogHash, definition, 1)
      this.#overlay.set(key, isPut ? definition : undefined)
      this.meta.catalogVersion = definition.catalog_version
      this.#diverged = this.meta.catalogHash !== definition.hash
    }
  }

  #isOwn(name: MutationName): boolean {
    return sameBytes(name.producer, this.meta.producer) && name.generation === this.meta.generation
  }

  /** The image has the effects of everything up to this mutation. */
  #decided(name: MutationName): void {
    if (!this.#isOwn(name)) return
    for (const { seq } of this.replica.pending.values()) {
      const mutation = this.#mutation(seq)
      if (mutation === undefined || seq > name.seq) continue
      const isKnown = mutation.appliedLsn !== undefined
      this.#overlay.set(keys.mutation(seq), isKnown ? undefined : { ...mutation, inImage: true })
    }
  }

  /** The image has come to `cursor`; what the server applied up to there is in it. */
  #reached(cursor: string, moves: boolean): void {
    if (moves || this.meta.cursor === undefined) this.meta.cursor = cursor
    const lsn = lsnOf(this.meta.cursor)
    for (const { seq } of this.replica.pending.values()) {
      const applied = this.#mutation(seq)?.appliedLsn
      if (applied !== undefined && applied <= lsn) this.#overlay.set(keys.mutation(seq), undefined)
    }
  }
}
