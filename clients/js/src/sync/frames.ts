/**
 * A frame as bytes; one WebSocket message is one frame.
 *
 *     frame := version:u8  type:u8  length:u32 LE  crc:u32 LE  body:length bytes
 *     crc   := CRC-32C of version, type, length and body
 */

import { crc32c } from '../crc32c.js'
import { pack, unpack, type Packable } from '../msgpack.js'
import type { DeviceFrames, ServerFrames } from './messages.js'

export const PROTOCOL_VERSION = 1

const HEAD_BYTES = 10

/** Type codes, the same in both directions. */
export const KINDS = {
  handshake: 0x01,
  handshakeAck: 0x02,
  error: 0x03,
  push: 0x10,
  ack: 0x11,
  reject: 0x12,
  subscribe: 0x20,
  snapshot: 0x21,
  delta: 0x22,
  unsubscribe: 0x23,
  clock: 0x30,
  resync: 0x50,
  throttle: 0x52,
  tokenRefresh: 0x60,
  tokenAck: 0x61,
  definition: 0x70,
  presenceSet: 0x80,
  presenceLeave: 0x81,
  presenceRoster: 0x82,
  ping: 0xff,
} as const

export type Kind = keyof typeof KINDS

const NAMES = new Map<number, Kind>(Object.entries(KINDS).map(([name, code]) => [code, name as Kind]))

/** Bytes that are no frame of ours. */
export class DamagedFrame extends Error {
  override readonly name = 'DamagedFrame'
}

/** A device's frame. */
export function encode<K extends keyof DeviceFrames & Kind>(kind: K, body: DeviceFrames[K]): Uint8Array {
  return encodeRaw(KINDS[kind], pack(body as unknown as Packable))
}

/** Any frame, from its type code and its packed body. */
export function encodeRaw(code: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEAD_BYTES + body.length)
  const view = new DataView(bytes.buffer)
  bytes[0] = PROTOCOL_VERSION
  bytes[1] = code
  view.setUint32(2, body.length, true)
  view.setUint32(6, crc32c(body, crc32c(bytes.subarray(0, 6))), true)
  bytes.set(body, HEAD_BYTES)
  return bytes
}

export type ServerFrame = { [K in keyof ServerFrames & Kind]: { kind: K; body: ServerFrames[K] } }[keyof ServerFrames &
  Kind]

/** Reads a server's frame; throws `DamagedFrame` or `DamagedMessage`. */
export function decode(bytes: Uint8Array): ServerFrame {
  const { kind, body } = decodeRaw(bytes)
  return { kind, body: unpack(body) } as ServerFrame
}

/** A frame's kind and its body, its head checked. */
export function decodeRaw(bytes: Uint8Array): { kind: Kind; body: Uint8Array } {
  if (bytes.length < HEAD_BYTES) throw new DamagedFrame('the frame is cut short')
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (bytes[0] !== PROTOCOL_VERSION) throw new DamagedFrame(`the frame has version ${bytes[0]}`)
  const body = bytes.subarray(HEAD_BYTES)
  if (view.getUint32(2, true) !== body.length) throw new DamagedFrame('the frame has another length than it says')
  if (view.getUint32(6, true) !== crc32c(body, crc32c(bytes.subarray(0, 6)))) {
    throw new DamagedFrame("the frame's checksum is wrong")
  }
  const kind = NAMES.get(bytes[1] ?? 0)
  if (kind === undefined) throw new DamagedFrame(`0x${(bytes[1] ?? 0).toString(16)} is no frame type`)
  return { kind, body }
}
