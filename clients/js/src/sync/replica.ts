/**
 * What a device has: its image of the server, the mutations that wait for a verdict, rejections,
 * shapes. In memory whole, durable in a `Store`. Memory follows batches alone, be they this tab's or
 * another's, so that all tabs show the same.
 *
 * What an application sees of a document is its image with the pending mutations replayed on it.
 */

import { pause } from '../backoff.js'
import { applyOperation } from './apply.js'
import type { Columns, Definition, Hint, Operation, Shape, SyncValue } from './messages.js'
import { EMPTY_HASH, readTable, type TableDefinition } from './catalog.js'
import type { Batch, Key, Store } from './store.js'
import { keyText, randomId } from './values.js'
import type { Violation } from './violation.js'

export interface Meta {
  /** Rises by one with every batch; a tab that misses one loads everything again. */
  version: number
  device: Uint8Array
  producer: Uint8Array
  generation: number
  nextSeq: number
  nextShape: number
  /** The last reading of the hybrid clock: milliseconds in the upper 48 bits. */
  hlc: bigint
  /** The image is complete up to here. */
  cursor?: string
  catalogVersion: number
  catalogHash: string
  /**
   * The server knows more mutations of this producer than were made here: this is a copy, or an older
   * state, of a device. Mutations from this seq on wait for a producer of their own.
   */
  heldFrom?: number
}

export interface ShapeRecord {
  shape: Shape
  /** Its rows are all here. */
  complete: boolean
  /** How often its rows have been sent from the beginning. */
  pass: number
  resume?: string
  /** The collection's key and all its columns here, once a chunk has told. */
  key?: string[]
  names?: string[]
}

export interface DocumentRecord {
  collection: string
  id: SyncValue[]
  columns: Columns
  /** Shapes that have it, each with the pass that it came in. */
  shapes: Record<number, number>
}

export interface Pending {
  seq: number
  base: string
  schema: number
  after: number[]
  hlc: bigint
  operations: Operation[]
  madeAtMs: number
  /** The server's LSN, once it has said so: shown until the image has come so far. */
  appliedLsn?: number
  /** The image has its effects already, whatever the verdict: not replayed any more. */
  inImage?: boolean
}

export interface Rejection {
  id: string
  operations: Operation[]
  base: string
  violation: Violation
  hint: Hint
  deadLetterId: number
  /** The dead letter at the head of the chain that it was rejected with. */
  chain?: number
  madeAtMs: number
  rejectedAtMs: number
}

/** Documents that may look different now, by collection. */
export type Touched = Map<string, Set<string>>

export const keys = {
  meta: 'meta',
  shape: (id: number): Key => `shape/${padded(id)}`,
  document: (collection: string, id: readonly SyncValue[]): Key => `doc/${encodeURIComponent(collection)}/${keyText(id)}`,
  mutation: (seq: number): Key => `mutation/${padded(seq)}`,
  rejection: (id: string): Key => `rejection/${id}`,
  definition: (type: string, name: string): Key => `definition/${type}/${name}`,
}

function padded(number: number): string {
  return String(number).padStart(16, '0')
}

export class Replica {
  #meta: Meta
  readonly shapes = new Map<number, ShapeRecord>()
  readonly pending = new Map<number, Pending>()
  readonly rejections = new Map<string, Rejection>()
  readonly definitions = new Map<Key, Definition>()
  readonly #tables = new Map<string, TableDefinition>()
  #undecided = 0
  readonly #documents = new Map<string, Map<string, DocumentRecord>>()
  /** Pending mutations by the documents that they touch, in order. */
  readonly #touching = new Map<string, Map<string, Pending[]>>()
  readonly #listeners = new Set<(touched: Touched) => void>()
  #turn: Promise<unknown> = Promise.resolve()

  private constructor(
    private readonly store: Store,
    private readonly announce: (version: number, batch: Batch) => void,
    meta: Meta,
  ) {
    this.#meta = meta
  }

  /** Loads what there is, or makes a new device. `announce` tells other tabs of each batch. */
  static async open(store: Store, announce: (version: number, batch: Batch) => void = () => undefined): Promise<Replica> {
    await store.change([keys.meta], ([meta]) => ({
      put: meta === undefined ? [[keys.meta, newMeta()]] : [],
      remove: [],
    }))
    const replica = new Replica(store, announce, newMeta())
    await replica.reload()
    return replica
  }

  get meta(): Readonly<Meta> {
    return this.#meta
  }

  /** Calls `listener` after every batch; returns how to stop. */
  onChange(listener: (touched: Touched) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Changes entries durably, one change after the other. `build` may change `meta`; it is written too. */
  change(build: (meta: Meta) => Batch): Promise<void> {
    const turn = this.#turn.then(async () => {
      for (;;) {
        let version = 0
        const batch = await this.store.change([keys.meta], ([found]) => {
          const after = { ...(found as Meta) }
          if (after.version !== this.#meta.version) return { put: [], remove: [] }
          version = ++after.version
          const built = build(after)
          built.put.push([keys.meta, after])
          return built
        })
        if (version > 0) {
          this.announce(version, batch)
          return this.absorb(version, batch)
        }
        await this.#catchUp()
      }
    })
    this.#turn = turn.catch(() => undefined)
    return turn
  }

  /** Another tab has written: its batch is on its way here, as a rule. */
  async #catchUp(): Promise<void> {
    const before = this.#meta.version
    await pause(20)
    if (this.#meta.version === before) await this.reload()
  }

  /** Takes in a batch that is durable, this tab's or another's. */
  async absorb(version: number, batch: Batch): Promise<void> {
    if (version <= this.#meta.version) return
    if (version !== this.#meta.version + 1) return this.reload()
    const touched: Touched = new Map()
    for (const key of batch.remove) this.#forget(key, touched)
    for (const [key, value] of batch.put) this.#hold(key, value, touched)
    this.#tell(touched)
  }

  /** Forgets memory and reads everything again. */
  async reload(): Promise<void> {
    let entries = await this.store.load()
    const versionOf = (): number => (entries.find(([key]) => key === keys.meta)?.[1] as Meta).version
    // Batches that came in the meantime are in the store as well.
    while (versionOf() < this.#meta.version) entries = await this.store.load()
    const touched: Touched = new Map()
    for (const [collection, documents] of this.#documents) {
      for (const key of documents.keys()) touch(touched, collection, key)
    }
    for (const map of [this.shapes, this.pending, this.rejections, this.definitions, this.#tables, this.#documents, this.#touching]) {
      map.clear()
    }
    this.#undecided = 0
    for (const [key, value] of entries) this.#hold(key, value, touched)
    this.#tell(touched)
  }

  #tell(touched: Touched): void {
    for (const listener of this.#listeners) listener(touched)
  }

  #hold(key: Key, value: unknown, touched: Touched): void {
    const kind = key.split('/', 1)[0]
    if (kind === 'meta') this.#meta = value as Meta
    else if (kind === 'doc') this.#holdDocument(value as DocumentRecord, touched)
    else if (kind === 'mutation') this.#holdMutation(value as Pending, touched)
    else if (kind === 'shape') this.shapes.set((value as ShapeRecord).shape.shape, value as ShapeRecord)
    else if (kind === 'rejection') this.rejections.set((value as Rejection).id, value as Rejection)
    else if (kind === 'definition') this.#holdDefinition(key, value as Definition)
  }

  #holdDefinition(key: Key, definition: Definition): void {
    this.definitions.set(key, definition)
    const table = readTable(definition)
    if (table) this.#tables.set(definition.name, table)
  }

  #forget(key: Key, touched: Touched): void {
    const [kind, rest = ''] = cut(key)
    if (kind === 'doc') {
      const [encoded, text] = cut(rest)
      const collection = decodeURIComponent(encoded)
      this.#documents.get(collection)?.delete(text ?? '')
      touch(touched, collection, text ?? '')
    } else if (kind === 'mutation') this.#forgetMutation(Number(rest), touched)
    else if (kind === 'shape') this.shapes.delete(Number(rest))
    else if (kind === 'rejection') this.rejections.delete(rest)
    else if (kind === 'definition') {
      const definition = this.definitions.get(key)
      this.definitions.delete(key)
      if (definition?.type === 'table') this.#tables.delete(definition.name)
    }
  }

  #holdDocument(record: DocumentRecord, touched: Touched): void {
    const key = keyText(record.id)
    member(this.#documents, record.collection, () => new Map<string, DocumentRecord>()).set(key, record)
    touch(touched, record.collection, key)
  }

  #holdMutation(mutation: Pending, touched: Touched): void {
    this.#forgetMutation(mutation.seq, touched)
    this.pending.set(mutation.seq, mutation)
    if (mutation.appliedLsn === undefined) this.#undecided += 1
    for (const [collection, key] of documentsOf(mutation)) {
      const list = member(member(this.#touching, collection, () => new Map<string, Pending[]>()), key, () => [])
      list.push(mutation)
      list.sort((a, b) => a.seq - b.seq)
      touch(touched, collection, key)
    }
  }

  #forgetMutation(seq: number, touched: Touched): void {
    const mutation = this.pending.get(seq)
    if (mutation === undefined) return
    this.pending.delete(seq)
    if (mutation.appliedLsn === undefined) this.#undecided -= 1
    for (const [collection, key] of documentsOf(mutation)) {
      const documents = this.#touching.get(collection)
      const left = documents?.get(key)?.filter((other) => other.seq !== seq) ?? []
      if (left.length > 0) documents?.set(key, left)
      else documents?.delete(key)
      touch(touched, collection, key)
    }
  }

  /** The server's row, as far as the device has it. */
  image(collection: string, key: string): DocumentRecord | undefined {
    return this.#documents.get(collection)?.get(key)
  }

  /** Every document of the image in `collection`. */
  images(collection: string): Iterable<DocumentRecord> {
    return this.#documents.get(collection)?.values() ?? []
  }

  /** Pending mutations that touch a document, in order. */
  pendingOf(collection: string, key: string): readonly Pending[] {
    return this.#touching.get(collection)?.get(key) ?? []
  }

  /** The document as the application sees it: the image, and what is pending on it. */
  view(collection: string, key: string): Columns | undefined {
    let columns = this.image(collection, key)?.columns
    for (const mutation of this.pendingOf(collection, key)) {
      if (mutation.inImage) continue
      for (const operation of mutation.operations) {
        if (operation.in === collection && keyText(operation.id) === key) {
          columns = applyOperation(columns, operation, this.table(collection))
        }
      }
    }
    return columns
  }

  /** Every document of `collection` that there is to see, by key. */
  *views(collection: string): Generator<[string, Columns]> {
    const touching = this.#touching.get(collection)
    for (const [key, record] of this.#documents.get(collection) ?? []) {
      const columns = touching?.has(key) ? this.view(collection, key) : record.columns
      if (columns) yield [key, columns]
    }
    for (const key of touching?.keys() ?? []) {
      if (this.image(collection, key)) continue
      const columns = this.view(collection, key)
      if (columns) yield [key, columns]
    }
  }

  /** A table's definition, once the server has sent it. */
  table(collection: string): TableDefinition | undefined {
    return this.#tables.get(collection)
  }

  /** How many mutations have no verdict. */
  get undecided(): number {
    return this.#undecided
  }

  /** The lowest seq without a verdict; the next one, if all have one. */
  firstUndecided(): number {
    return this.settled() + 1
  }

  /** The columns of a collection's key, if its definition or a shape of it has told. */
  keyColumns(collection: string): string[] | undefined {
    const table = this.table(collection)
    if (table) return table.key
    for (const { shape, key } of this.shapes.values()) if (shape.in === collection && key) return key
    return undefined
  }

  /** Of every mutation up to this seq the verdict is known. */
  settled(): number {
    let first = this.#meta.nextSeq
    for (const { seq, appliedLsn } of this.pending.values()) if (appliedLsn === undefined && seq < first) first = seq
    return first - 1
  }
}

function newMeta(): Meta {
  return {
    version: 0,
    device: randomId(),
    producer: randomId(),
    generation: 1,
    nextSeq: 1,
    nextShape: 1,
    hlc: 0n,
    catalogVersion: 0,
    catalogHash: EMPTY_HASH,
  }
}

function documentsOf(mutation: Pending): [string, string][] {
  const found = new Map<string, [string, string]>()
  for (const operation of mutation.operations) {
    const key = keyText(operation.id)
    found.set(`${operation.in}\0${key}`, [operation.in, key])
  }
  return [...found.values()]
}

function touch(touched: Touched, collection: string, key: string): void {
  member(touched, collection, () => new Set<string>()).add(key)
}

function member<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  let value = map.get(key)
  if (value === undefined) map.set(key, (value = make()))
  return value
}

function cut(text: string): [string, string | undefined] {
  const at = text.indexOf('/')
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)]
}
