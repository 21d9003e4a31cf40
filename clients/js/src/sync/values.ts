/** Documents' keys as text, and ids. */

import type { SyncValue } from './messages.js'

/** A document's key as text that differs where the keys do. */
export function keyText(id: readonly SyncValue[]): string {
  return JSON.stringify(id, (_, value: unknown) => {
    if (value instanceof Uint8Array) return { $bytes: toHex(value) }
    return typeof value === 'bigint' ? { $int: String(value) } : value
  })
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** 16 random bytes. */
export function randomId(): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(16))
}

/** The LSN of a cursor `<lsn>@<epoch>`. */
export function lsnOf(cursor: string): number {
  return Number(cursor.split('@', 1)[0])
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, at) => byte === b[at])
}
