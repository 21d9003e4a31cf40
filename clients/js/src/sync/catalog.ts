/**
 * Definitions as a device uses them: what a table's columns are, and the hash of all of them, by which
 * a device sees that it has the same as the server.
 */

import type { CellKind } from './cells.js'
import type { Definition } from './messages.js'

/** What the device needs to know of a table. */
export interface TableDefinition {
  /** Names of the key's columns, in order. */
  key: string[]
  /** Columns whose values are JSON text on the wire: json, jsonb and arrays. */
  json: ReadonlySet<string>
  /** Columns that merge. */
  cells: ReadonlyMap<string, CellKind>
}

interface Payload {
  columns?: { name: string; pg_type: unknown; hidden?: boolean; crdt?: { kind: CellKind } }[]
  key?: number[]
}

/** Reads a table's payload; `undefined` for what is none, or is of a form that is not known here. */
export function readTable(definition: Definition): TableDefinition | undefined {
  if (definition.type !== 'table') return undefined
  const { columns, key } = JSON.parse(definition.payload) as Payload
  if (!Array.isArray(columns) || !Array.isArray(key)) return undefined
  const json = columns.filter(({ pg_type: type }) => type === 'json' || type === 'jsonb' || isArray(type))
  return {
    key: key.flatMap((place) => columns[place]?.name ?? []),
    json: new Set(json.map(({ name }) => name)),
    cells: new Map(columns.flatMap(({ name, crdt }) => (crdt ? [[name, crdt.kind]] : []))),
  }
}

function isArray(type: unknown): boolean {
  return typeof type === 'object' && type !== null && 'array' in type
}

const encoder = new TextEncoder()

/** The catalog's hash with one more definition (`sign` 1) or one less (-1), as 16 hexadecimal digits. */
export function hashWith(hash: string, definition: Definition, sign: 1 | -1): string {
  const { type, name, payload } = definition
  const one = fnv1a(encoder.encode(`${type}\0${name}\0${payload}\0`))
  return BigInt.asUintN(64, BigInt(`0x${hash}`) + BigInt(sign) * one).toString(16).padStart(16, '0')
}

/** No definitions. */
export const EMPTY_HASH = '0'.repeat(16)

/** FNV-1a, 64 bits, in two halves: the prime is 2^40 + 0x1b3. */
export function fnv1a(bytes: Uint8Array): bigint {
  let high = 0xcbf29ce4
  let low = 0x84222325
  for (const byte of bytes) {
    low = (low ^ byte) >>> 0
    const product = low * 0x1b3
    high = (high * 0x1b3 + Math.floor(product / 0x100000000) + ((low << 8) >>> 0)) >>> 0
    low = product >>> 0
  }
  return (BigInt(high) << 32n) | BigInt(low)
}
