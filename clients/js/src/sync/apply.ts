/**
 * What an operation does to a document, on the device: the same as on the server, except that the
 * server also has the last word.
 */

import { applyUpdates } from './cells.js'
import type { TableDefinition } from './catalog.js'
import type { Columns, Operation, SyncValue } from './messages.js'

/**
 * The document after `operation`; `undefined` is a document that is not there. `table` says which
 * columns merge.
 */
export function applyOperation(
  document: Columns | undefined,
  operation: Operation,
  table?: TableDefinition,
): Columns | undefined {
  if (operation.insert) return { ...operation.insert }
  if (operation.delete) return undefined
  // No verb but insert makes a document.
  if (document === undefined) return undefined
  if (operation.set) return { ...document, ...operation.set }
  if (operation.crdt) return applyUpdates(document, operation.crdt, table?.cells)
  if (operation.inc) return combine(document, operation.inc, (held, by) => sum(held ?? 0, by ?? 0))
  if (operation.min) return combine(document, operation.min, (held, by) => pick(held, by, -1))
  if (operation.max) return combine(document, operation.max, (held, by) => pick(held, by, 1))
  if (operation.add) return elements(document, operation.add, addTo)
  if (operation.remove) return elements(document, operation.remove, removeFrom)
  return document
}

function combine(document: Columns, by: Columns, how: (held: SyncValue, by: SyncValue) => SyncValue): Columns {
  const result = { ...document }
  for (const [column, value] of Object.entries(by)) result[column] = how(document[column] ?? null, value)
  return result
}

/** Numbers may be texts, as numeric columns are: those are added exactly. */
function sum(held: SyncValue, by: SyncValue): SyncValue {
  if (typeof held === 'number' && typeof by === 'number') {
    const total = held + by
    if (Number.isSafeInteger(total) || !Number.isInteger(held) || !Number.isInteger(by)) return total
    return BigInt(held) + BigInt(by)
  }
  if (typeof held === 'bigint' || typeof by === 'bigint') return BigInt(held as number) + BigInt(by as number)
  return addDecimal(String(held), String(by))
}

/** The sum of two decimals, exactly, as PostgreSQL's numeric prints it. */
export function addDecimal(a: string, b: string): string {
  const scaleOf = (text: string): number => text.split('.')[1]?.length ?? 0
  const scale = Math.max(scaleOf(a), scaleOf(b))
  const whole = (text: string): bigint => {
    const [integer = '0', fraction = ''] = text.replace(/^[+-]/, '').split('.')
    const value = BigInt(integer + fraction.padEnd(scale, '0'))
    return text.startsWith('-') ? -value : value
  }
  const total = whole(a) + whole(b)
  const digits = String(total < 0n ? -total : total).padStart(scale + 1, '0')
  const text = scale === 0 ? digits : `${digits.slice(0, -scale)}.${digits.slice(-scale)}`
  return total < 0n ? `-${text}` : text
}

function pick(held: SyncValue, by: SyncValue, sign: 1 | -1): SyncValue {
  if (held === null) return by
  if (by === null) return held
  return compare(by, held) * sign > 0 ? by : held
}

/** Orders two values of one column. */
export function compare(a: SyncValue, b: SyncValue): number {
  if (typeof a === 'string' && typeof b === 'string') return a < b ? -1 : a > b ? 1 : 0
  return Number(a) - Number(b)
}

/** Arrays are JSON text on the wire. */
function elements(
  document: Columns,
  by: Record<string, SyncValue[]>,
  how: (held: unknown[], by: SyncValue[]) => unknown[],
): Columns {
  const result = { ...document }
  for (const [column, values] of Object.entries(by)) {
    const held = document[column]
    const list = typeof held === 'string' ? (JSON.parse(held) as unknown) : []
    result[column] = JSON.stringify(how(Array.isArray(list) ? list : [], values))
  }
  return result
}

function addTo(held: unknown[], values: SyncValue[]): unknown[] {
  const result = [...held]
  for (const value of values) if (!result.includes(value)) result.push(value)
  return result
}

function removeFrom(held: unknown[], values: SyncValue[]): unknown[] {
  return held.filter((element) => !values.includes(element as SyncValue))
}
