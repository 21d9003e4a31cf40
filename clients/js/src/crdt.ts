/**
 * Text and lists that merge: columns declared `TEXT CRDT` and `LIST CRDT`. Needs the package `yjs`,
 * which the rest of the client does without; import this when it is used, and before a device is
 * opened that may have edits waiting:
 *
 *     const { sharedText } = await import('springhead/crdt')
 *     const body = sharedText(device, 'notes', 'shared', 'body')
 *     await body.insert(0, 'Hello')
 *
 * Edits are durable on the device and merge with those of others, in whatever order they come together.
 */

import * as Y from 'yjs'
import type { Device } from './sync/device.js'
import { blocksOf, cellOf, useMerge, withBlock, type Cell, type CellKind } from './sync/cells.js'
import type { Id, Write } from './sync/collection.js'
import { fnv1a } from './sync/catalog.js'
import type { SyncValue } from './sync/messages.js'
import { keyText } from './sync/values.js'

/** What has no update in it: no structs, no deletions. */
const NOTHING = 2

/** A document of a cell as `client` edits it. */
function open(kind: CellKind, cell: Cell, client?: number): Y.Doc {
  const doc = new Y.Doc()
  if (client !== undefined) doc.clientID = client
  if (kind === 'text') doc.getText('text')
  else doc.getArray('list')
  if (cell.state) for (const block of blocksOf(cell.state)) Y.applyUpdate(doc, block)
  else {
    const seed = seedUpdate(kind, cell.shown)
    if (seed) Y.applyUpdate(doc, seed)
  }
  return doc
}

/** Elements of a list as they are shown, and of a text nothing. */
function elementsOf(shown: SyncValue): unknown[] {
  return typeof shown === 'string' ? (JSON.parse(shown) as unknown[]) : []
}

/** The first edit of a cell that nobody has edited: everyone makes the same one of what it shows. */
export function seedUpdate(kind: CellKind, shown: SyncValue): Uint8Array | undefined {
  const doc = new Y.Doc()
  if (kind === 'text') {
    if (typeof shown !== 'string' || shown === '') return undefined
    doc.clientID = seedClient(`text\0${shown}`)
    doc.getText('text').insert(0, shown)
  } else {
    const elements = elementsOf(shown)
    if (elements.length === 0) return undefined
    doc.clientID = seedClient(`list${elements.map((element) => `\0${tagOf(element)}`).join('')}`)
    doc.getArray('list').insert(0, elements)
  }
  return Y.encodeStateAsUpdate(doc)
}

function seedClient(text: string): number {
  return Number(BigInt.asUintN(53, fnv1a(new TextEncoder().encode(text))))
}

/** Languages print numbers each in its own way: of all but texts the type alone counts. */
function tagOf(element: unknown): string {
  if (typeof element === 'string') return `"${element}`
  if (typeof element === 'boolean') return String(element)
  if (typeof element === 'number') return 'number'
  if (element === null) return 'null'
  return Array.isArray(element) ? 'array' : 'object'
}

function shownOf(kind: CellKind, doc: Y.Doc): SyncValue {
  return kind === 'text' ? doc.getText('text').toString() : JSON.stringify(doc.getArray('list').toJSON())
}

function stateOf(kind: CellKind, cell: Cell): Uint8Array {
  if (cell.state) return cell.state
  const seed = seedUpdate(kind, cell.shown)
  return seed ? withBlock(new Uint8Array(), seed) : new Uint8Array()
}

/** What merging has come to: the same question is asked at every look at a document. */
const merged = new WeakMap<Uint8Array, { from: Cell; cell: Cell }>()

function merge(kind: CellKind, cell: Cell, update: Uint8Array): Cell {
  const known = merged.get(update)
  if (known && known.from.state === cell.state && known.from.shown === cell.shown) return known.cell
  const doc = open(kind, cell)
  let after = cell
  try {
    Y.applyUpdate(doc, update)
    // An update that rests on what was taken back waits for a verdict like any other.
    if (doc.store.pendingStructs === null && doc.store.pendingDs === null) {
      after = { state: withBlock(stateOf(kind, cell), update), shown: shownOf(kind, doc) }
    }
  } catch {
    // Not an update: the server will say so.
  }
  doc.destroy()
  merged.set(update, { from: cell, cell: after })
  return after
}

useMerge(merge)

/** Who edits in this page: a number that nobody else has, until something of it is taken back. */
interface Author {
  client: number
  /** What the next edit of a cell would be numbered. */
  next: Map<string, number>
}

const authors = new WeakMap<Device, Author>()
const turns = new WeakMap<Device, Promise<unknown>>()

function newAuthor(): Author {
  const [high = 0, low = 0] = crypto.getRandomValues(new Uint32Array(2))
  return { client: (high & 0x1fffff) * 0x100000000 + low, next: new Map() }
}

/** One CRDT column of one document. */
abstract class Shared {
  protected abstract readonly kind: CellKind

  constructor(
    protected readonly device: Device,
    readonly collection: string,
    readonly id: Id,
    readonly column: string,
  ) {}

  protected get cell(): Cell | undefined {
    const document = this.device.replica.view(this.collection, keyText([this.id].flat()))
    return document && cellOf(document, this.column)
  }

  /** Calls `listener` whenever the document may have changed; returns how to stop. */
  onChange(listener: () => void): () => void {
    const key = keyText([this.id].flat())
    return this.device.replica.onChange((touched) => {
      if (touched.get(this.collection)?.has(key)) listener()
    })
  }

  #writing = 0

  /** Whether edits made here are not durable yet, and not in `value`. */
  get isWriting(): boolean {
    return this.#writing > 0
  }

  /** One edit after the other: each rests on the one before. */
  protected edit(change: (doc: Y.Doc) => void): Promise<Write | undefined> {
    this.#writing += 1
    const turn = (turns.get(this.device) ?? Promise.resolve())
      .then(() => this.#editNow(change))
      .finally(() => (this.#writing -= 1))
    turns.set(
      this.device,
      turn.catch(() => undefined),
    )
    return turn
  }

  async #editNow(change: (doc: Y.Doc) => void): Promise<Write | undefined> {
    const cell = this.cell
    if (cell === undefined) throw new TypeError(`there is no document ${keyText([this.id].flat())} in ${this.collection}`)
    const name = `${this.collection}\0${keyText([this.id].flat())}\0${this.column}`
    let author = authors.get(this.device) ?? newAuthor()
    let doc = open(this.kind, cell, author.client)
    // Numbers of edits that were taken back are not used again.
    if (Y.getState(doc.store, author.client) < (author.next.get(name) ?? 0)) {
      author = newAuthor()
      doc.destroy()
      doc = open(this.kind, cell, author.client)
    }
    authors.set(this.device, author)
    let update = new Uint8Array()
    doc.on('update', (made: Uint8Array) => (update = new Uint8Array(made)))
    doc.transact(() => change(doc))
    const next = Y.getState(doc.store, author.client)
    doc.destroy()
    if (update.length <= NOTHING) return undefined
    const written = await this.device.transaction((collection) =>
      collection(this.collection).merge(this.id, { [this.column]: update }),
    )
    author.next.set(name, next)
    return written
  }
}

/** A text that merges by character. Positions and lengths count as in JavaScript's strings. */
export class SharedText extends Shared {
  protected readonly kind = 'text'

  /** The text now, with what waits for the server. */
  get value(): string {
    const shown = this.cell?.shown
    return typeof shown === 'string' ? shown : ''
  }

  insert(at: number, text: string): Promise<Write | undefined> {
    return this.edit((doc) => doc.getText('text').insert(at, text))
  }

  delete(at: number, length: number): Promise<Write | undefined> {
    return this.edit((doc) => doc.getText('text').delete(at, length))
  }

  /**
   * Makes `next` of `before`, which the text was when its author began to write (left out: the text
   * now): the run that differs is replaced. What others wrote meanwhile outside of it stays, and what
   * they wrote inside of it is beside it.
   */
  replace(next: string, before?: string): Promise<Write | undefined> {
    return this.edit((doc) => {
      const text = doc.getText('text')
      const now = text.toString()
      const { at, removed, inserted } = replacement(before ?? now, next)
      // Where the author's place is now.
      const place = before === undefined || before === now ? at : moved(before, now, at)
      const length = Math.min(removed, Math.max(0, now.length - place))
      const isThere = now.slice(place, place + length) === (before ?? now).slice(at, at + removed)
      if (isThere && length > 0) text.delete(place, length)
      if (inserted !== '') text.insert(place, inserted)
    })
  }
}

/** A list that merges by element. Elements are JSON. */
export class SharedList extends Shared {
  protected readonly kind = 'list'

  get value(): unknown[] {
    return elementsOf(this.cell?.shown ?? null)
  }

  insert(at: number, ...elements: unknown[]): Promise<Write | undefined> {
    return this.edit((doc) => doc.getArray('list').insert(at, elements))
  }

  push(...elements: unknown[]): Promise<Write | undefined> {
    return this.edit((doc) => doc.getArray('list').push(elements))
  }

  delete(at: number, length = 1): Promise<Write | undefined> {
    return this.edit((doc) => doc.getArray('list').delete(at, length))
  }
}

/** The text of a `TEXT CRDT` column. */
export function sharedText(device: Device, collection: string, id: Id, column: string): SharedText {
  return new SharedText(device, collection, id, column)
}

/** The list of a `LIST CRDT` column. */
export function sharedList(device: Device, collection: string, id: Id, column: string): SharedList {
  return new SharedList(device, collection, id, column)
}

/** The one run that differs. Never splits a surrogate pair. */
export function replacement(before: string, after: string): { at: number; removed: number; inserted: string } {
  const most = Math.min(before.length, after.length)
  let at = 0
  while (at < most && before[at] === after[at]) at += 1
  if (isInPair(before, at) || isInPair(after, at)) at -= 1
  let end = 0
  while (end < most - at && before[before.length - 1 - end] === after[after.length - 1 - end]) end += 1
  if (isInPair(before, before.length - end) || isInPair(after, after.length - end)) end -= 1
  return { at, removed: before.length - end - at, inserted: after.slice(at, after.length - end) }
}

function isInPair(text: string, at: number): boolean {
  return at > 0 && at < text.length && /[\uDC00-\uDFFF]/.test(text[at] ?? '') && /[\uD800-\uDBFF]/.test(text[at - 1] ?? '')
}

/** Where a place in `before` is in `after`. */
export function moved(before: string, after: string, place: number): number {
  const { at, removed, inserted } = replacement(before, after)
  if (place <= at) return place
  return place >= at + removed ? place + inserted.length - removed : at + inserted.length
}
