/**
 * What a device and a server say to each other, as `docs/sync-protocol.md` has it. Members are named
 * as on the wire.
 */

import type { Violation } from './violation.js'

/** One value: what a change event's JSON has, in the nearest type; JSON and arrays as JSON text. */
export type SyncValue = null | boolean | number | bigint | string | Uint8Array

/** Columns by name. */
export type Columns = Record<string, SyncValue>

/** One operation on one document: exactly one verb. */
export interface Operation {
  in: string
  id: SyncValue[]
  insert?: Columns
  set?: Columns
  delete?: true
  inc?: Columns
  min?: Columns
  max?: Columns
  add?: Record<string, SyncValue[]>
  remove?: Record<string, SyncValue[]>
  crdt?: Record<string, Uint8Array>
}

/**
 * One mutation of a push. `base` and `schema` are the push's where they are left out, `seq` is the one
 * after the mutation before; `hlc` is less that of the mutation before.
 */
export interface WireMutation {
  seq?: number
  base?: string
  schema?: number
  after?: (number | [Uint8Array, number, number])[]
  hlc?: number | bigint
  ops: Operation[]
}

export interface Shape {
  shape: number
  in: string
  where?: string
  params?: SyncValue[]
  columns?: string[]
}

export interface Subscription extends Shape {
  /** Its rows are complete at the device's cursor. */
  complete?: boolean
  /** The token of the last chunk that is kept. */
  resume?: string
}

export interface MutationName {
  producer: Uint8Array
  generation: number
  seq: number
}

export interface Limits {
  max_frame_bytes: number
  max_mutation_bytes: number
  max_push_mutations: number
  max_in_flight: number
  max_shapes: number
  max_presence_bytes: number
  max_presence_channels: number
  ping_interval_ms: number
  idle_timeout_ms: number
  max_clock_drift_ms: number
}

export interface HandshakeAck {
  protocol: number
  session: string
  user: string
  cursor: string
  server_ms: number
  next_seq: number
  catalog_version: number
  catalog_hash: string
  limits: Limits
  token_expires_ms?: number
}

export interface Refused {
  code: string
  message: string
  hint?: string
  protocols: [number, number]
  after_ms?: number
}

export type RetryReason = 'rate_limit' | 'overload' | 'dead_letters_full' | 'unavailable'

/** A verdict other than a rejection. */
export interface WireVerdict {
  seq: number
  applied?: number
  duplicate?: number
  retry?: { after_ms: number; reason: RetryReason }
  gap?: number
  fenced?: boolean
}

/** Something to do to a rejected mutation before it is tried again. */
export type Fix =
  | { fix: 'set_column'; operation: number; column: string; value: SyncValue }
  | { fix: 'create_row'; collection: string; columns: Columns }
  | { fix: 'drop_column'; operation: number; column: string }
  | { fix: 'resync_definitions' }

/** What could be done about a rejection: facts by kind, and fixes, the best first. */
export interface Hint {
  kind: string
  fixes?: Fix[]
  [fact: string]: unknown
}

export interface Reject extends MutationName {
  dead_letter_id: number
  violation: Violation
  hint?: Hint
  chain?: number
}

export interface SnapshotChunk {
  shape: number
  first?: boolean
  columns: string[]
  key: number
  rows: SyncValue[][]
  resume?: string
  done?: { cursor: string; decided?: MutationName[] }
}

export interface DeltaChange {
  of: number[]
  id?: SyncValue[]
  put?: Columns
  set?: Columns
  delete?: boolean
  leave?: boolean
  clear?: boolean
}

export interface Delta {
  cursor: string
  at?: number
  own?: MutationName
  changes?: DeltaChange[]
  more?: boolean
}

export interface Definition {
  cursor: string
  catalog_version: number
  type: string
  name: string
  action: 'put' | 'drop'
  sql: string
  /** JSON text. */
  payload: string
  hash: string
  set?: [number, number]
}

export interface PresenceMember {
  channel: string
  device: Uint8Array
  user: string
  state: string
}

interface Handshake {
  protocol: number
  token?: string
  tenant?: string
  device: Uint8Array
  producer: Uint8Array
  generation: number
  cursor?: string
  catalog_version: number
  catalog_hash: string
  settled: number
  shapes: Subscription[]
  client: string
}

/** Frames of a device, by name; the numbers are their type codes. */
export interface DeviceFrames {
  handshake: Handshake
  push: { producer: Uint8Array; generation: number; base: string; schema: number; mutations: WireMutation[] }
  ack: { cursor?: string; settled?: MutationName[] }
  subscribe: Subscription
  unsubscribe: { shape: number }
  clock: { device_ms: number }
  resync: { reason: string; shapes?: number[]; definitions?: boolean }
  tokenRefresh: { token: string }
  presenceSet: { channel: string; state: string }
  presenceLeave: { channel: string }
  presenceRoster: { channel: string }
  ping: { nonce: number; reply?: boolean }
}

/** Frames of a server, by name. */
export interface ServerFrames {
  handshake: never
  handshakeAck: { accepted?: HandshakeAck; refused?: Refused }
  error: { code: string; message: string; hint?: string; closing: boolean }
  ack: { producer: Uint8Array; generation: number; verdicts: WireVerdict[] }
  reject: Reject
  snapshot: SnapshotChunk
  delta: Delta
  unsubscribe: { shape: number; code: string; message: string }
  clock: { device_ms: number; server_ms: number }
  resync: { reason: string; shapes?: number[]; message: string }
  throttle: { after_ms: number; reason: RetryReason; max_in_flight?: number }
  tokenRefresh: { expires_ms: number }
  tokenAck: { accepted: boolean; expires_ms?: number; code?: string; message?: string }
  definition: Definition
  presenceSet: PresenceMember
  presenceLeave: { channel: string; device: Uint8Array }
  presenceRoster: { channel: string; members: PresenceMember[] }
  ping: { nonce: number; reply?: boolean }
}
