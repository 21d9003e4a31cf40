/** The golden frames of the protocol: what a server sends is understood, what a device sends is the same bytes. */

import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { pack, unpack, type Packable } from '../src/msgpack.js'
import { decode, encode, encodeRaw, KINDS, type Kind } from '../src/sync/frames.js'

const DIRECTORY = new URL('../../../crates/proto/tests/golden/sync/', import.meta.url)

interface Twin {
  from: 'device' | 'server'
  type: number
  body: Record<string, unknown>
}

const names = readdirSync(DIRECTORY)
  .filter((name) => name.endsWith('.bin'))
  .map((name) => name.slice(0, -'.bin'.length))

/** The twin as values: whole numbers beyond what JSON keeps here are marked before it is read. */
function twin(name: string): Twin {
  const text = readFileSync(new URL(`${name}.json`, DIRECTORY), 'utf8')
  const marked = text.replace(/([:[]\s*)(-?\d{16,})(?=\s*[,\]}])/g, '$1{"$int":"$2"}')
  return JSON.parse(marked, revive) as Twin
}

const IDS = new Set(['device', 'producer'])

function revive(key: string, value: unknown): unknown {
  if (IDS.has(key) && typeof value === 'string' && value.length === 32) return bytes(value)
  if (key === 'after' && Array.isArray(value)) {
    return value.map((other: unknown) => (Array.isArray(other) ? [bytes(String(other[0])), ...(other.slice(1) as unknown[])] : other))
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  const { $int, $bytes, $real } = value as { $int?: string; $bytes?: string; $real?: string }
  if ($int !== undefined) return BigInt($int)
  if ($bytes !== undefined) return bytes($bytes)
  if ($real !== undefined) return Number($real)
  return value
}

function bytes(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g) ?? [], (byte) => parseInt(byte, 16))
}

/** Numbers that are exact either way are one value. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : value
  if (value instanceof Uint8Array) return [...value]
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, plain(member)]))
}

function kindOf(code: number): Kind {
  const found = Object.entries(KINDS).find(([, known]) => known === code)
  if (found === undefined) throw new Error(`0x${code.toString(16)} has no name`)
  return found[0] as Kind
}

describe('golden frames', () => {
  test('there_are_frames_of_every_kind', () => {
    expect(new Set(names.map((name) => twin(name).type))).toEqual(new Set(Object.values(KINDS)))
  })

  test.each(names)('%s', (name) => {
    const golden = new Uint8Array(readFileSync(new URL(`${name}.bin`, DIRECTORY)))
    const { from, type, body } = twin(name)
    const kind = kindOf(type)
    const decoded = decode(golden)
    expect(decoded.kind).toBe(kind)
    expect(plain(decoded.body)).toEqual(plain(body))
    if (from === 'device') expect(encode(kind as 'ping', body as never)).toEqual(golden)
    else expect(encodeRaw(type, pack(unpack(golden.subarray(10)) as Packable))).toEqual(golden)
  })

  test('a_frame_with_any_byte_changed_is_refused', () => {
    const golden = new Uint8Array(readFileSync(new URL('snapshot_first.bin', DIRECTORY)))
    for (let at = 0; at < golden.length; at++) {
      const damaged = golden.slice()
      damaged[at] = (damaged[at] ?? 0) ^ 0x10
      expect(() => decode(damaged)).toThrow(/frame/)
    }
  })
})
