/**
 * CRDT columns as documents have them: the value that everybody sees and, under the column's name and
 * `$crdt`, its state: the edits that it comes of. Bytes only; what they mean is `crdt.ts`'s, which an
 * application loads when it uses such columns.
 *
 *     state   block*              block   length u32 little endian, then so many bytes: a Yjs update
 *     sent    0x00 state          all of it
 *             0x01 block*         comes after what the device has
 */

import type { Columns, SyncValue } from './messages.js'

const SUFFIX = '$crdt'

export type CellKind = 'text' | 'list'

/** The name that a CRDT column's state has among a document's columns. */
export function stateName(column: string): string {
  return column + SUFFIX
}

export function isStateName(name: string): boolean {
  return name.endsWith(SUFFIX)
}

/** Columns as they are kept, of those that were sent: states follow what the device has as `before`. */
export function received(before: Columns | undefined, sent: Columns): Columns {
  const columns = { ...sent }
  for (const [name, value] of Object.entries(sent)) {
    if (isStateName(name) && value instanceof Uint8Array) columns[name] = after(before?.[name], value)
  }
  return columns
}

function after(held: SyncValue | undefined, sent: Uint8Array): Uint8Array {
  const [tag] = sent
  const blocks = sent.subarray(1)
  if (tag === 0 || !(held instanceof Uint8Array)) return blocks.slice()
  // Two shapes may tell of one edit.
  return endsWith(held, blocks) ? held : concat([held, blocks])
}

function endsWith(bytes: Uint8Array, end: Uint8Array): boolean {
  const from = bytes.length - end.length
  return from >= 0 && end.every((byte, at) => byte === bytes[from + at])
}

function concat(parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

/** The updates in a state, in order. */
export function blocksOf(state: Uint8Array): Uint8Array[] {
  const view = new DataView(state.buffer, state.byteOffset, state.byteLength)
  const blocks: Uint8Array[] = []
  for (let at = 0; at < state.length; ) {
    const length = at + 4 <= state.length ? view.getUint32(at, true) : Infinity
    if (at + 4 + length > state.length) throw new RangeError('the state of a CRDT column is cut off')
    blocks.push(state.subarray(at + 4, at + 4 + length))
    at += 4 + length
  }
  return blocks
}

/** A state with one more update. */
export function withBlock(state: Uint8Array, update: Uint8Array): Uint8Array {
  const length = new Uint8Array(4)
  new DataView(length.buffer).setUint32(0, update.length, true)
  return concat([state, length, update])
}

/** A cell: its state (`undefined`: nobody has edited it) and what it shows, as on the wire. */
export interface Cell {
  state: Uint8Array | undefined
  shown: SyncValue
}

/** A cell with one more update; as it was, if the update rests on what is not there. */
export type Merge = (kind: CellKind, cell: Cell, update: Uint8Array) => Cell

let merge: Merge | undefined

/** `crdt.ts` has been loaded. */
export function useMerge(loaded: Merge): void {
  merge = loaded
}

/** A document after updates of its CRDT columns. Until `crdt.ts` is loaded it shows the server's. */
export function applyUpdates(
  document: Columns,
  updates: Record<string, Uint8Array>,
  kinds: ReadonlyMap<string, CellKind> | undefined,
): Columns {
  const result = { ...document }
  for (const [column, update] of Object.entries(updates)) {
    const kind = kinds?.get(column)
    if (merge === undefined || kind === undefined) continue
    const after = merge(kind, cellOf(document, column), update)
    result[column] = after.shown
    if (after.state) result[stateName(column)] = after.state
  }
  return result
}

export function cellOf(document: Columns, column: string): Cell {
  const state = document[stateName(column)]
  return { state: state instanceof Uint8Array ? state : undefined, shown: document[column] ?? null }
}
