/** Questions to a collection on the device: a condition in TypeScript, an order, a window. */

import { compare } from './apply.js'
import type { Columns, SyncValue } from './messages.js'

export interface Query<T = Columns> {
  where?: (document: T) => boolean
  /** Columns to order by; with `-` before the name from the greatest down. NULLs are last, as in PostgreSQL. */
  orderBy?: string | string[]
  offset?: number
  limit?: number
}

/** The documents that `query` asks for. Without an order they are ordered by key. */
export function select<T = Columns>(documents: Iterable<[string, T]>, query: Query<T>): T[] {
  const found: [string, T][] = []
  for (const entry of documents) if (query.where?.(entry[1]) ?? true) found.push(entry)
  const terms = [query.orderBy ?? []].flat().map((term) => ({
    column: term.replace(/^-/, ''),
    sign: term.startsWith('-') ? -1 : 1,
  }))
  found.sort(([keyA, a], [keyB, b]) => {
    for (const { column, sign } of terms) {
      const order = sign * byValue(member(a, column), member(b, column))
      if (order !== 0) return order
    }
    return keyA < keyB ? -1 : keyA > keyB ? 1 : 0
  })
  const from = query.offset ?? 0
  return found.slice(from, query.limit === undefined ? undefined : from + query.limit).map(([, document]) => document)
}

function member(document: unknown, column: string): SyncValue {
  return (document as Columns)[column] ?? null
}

/** NULL is greater than everything. */
function byValue(a: SyncValue, b: SyncValue): number {
  if (a === null || b === null) return Number(a === null) - Number(b === null)
  return compare(a, b)
}
