/**
 * One connection to the server, from the handshake to its end: pushes what is pending, takes in what
 * comes. All that a connection needs to know is in the replica; a broken one loses nothing.
 */

import type { Socket, SocketConstructor } from '../live.js'
import { SpringheadError } from '../errors.js'
import { nowMs } from './clock.js'
import { decode, encode, PROTOCOL_VERSION, type Kind, type ServerFrame } from './frames.js'
import { Intake } from './intake.js'
import type { Definition, Delta, DeviceFrames, HandshakeAck, PresenceMember, Subscription, WireMutation } from './messages.js'
import { keys, type Pending, type Replica } from './replica.js'
import { lsnOf, randomId, sameBytes } from './values.js'

/** What a session tells whoever runs it. */
export interface SessionEvents {
  accepted(ack: HandshakeAck): void
  throttled(untilMs: number): void
  shapeEnded(shape: number, error: SpringheadError): void
  presence(members: PresenceMember[], left: { channel: string; device: Uint8Array } | undefined, isRoster: boolean): void
  /** The server's clock less the device's, in milliseconds. */
  clock(offsetMs: number): void
}

export interface SessionOptions {
  token(): Promise<string | undefined>
  tenant?: string
  /** Name and version of the program. */
  client: string
}

/** Why a session ended. */
export class SessionEnd extends Error {
  constructor(
    readonly error: SpringheadError | undefined,
    /** Whether connecting again may help without anybody doing anything. */
    readonly mayReconnect: boolean,
    readonly afterMs: number,
  ) {
    super(error?.message ?? 'the connection is gone')
  }
}

/** Codes at which connecting again by itself is of no use. */
const FINAL = new Set([
  'unsupported_version', 'unknown_type', 'frame_too_large', 'malformed_body', 'protocol_violation',
  'unauthenticated', 'token_expired', 'forbidden', 'unknown_tenant', 'taken_over',
])

interface BinarySocket extends Socket {
  binaryType: string
  send(data: string | Uint8Array): void
}

export class Session {
  readonly #socket: BinarySocket
  #ack: HandshakeAck | undefined
  /** Mutations up to this seq are on their way or decided. */
  #sentUpTo = 0
  #pausedUntilMs = 0
  #pauseTimer: ReturnType<typeof setTimeout> | undefined
  #pingTimer: ReturnType<typeof setInterval> | undefined
  #heardMs = nowMs()
  #queue: ServerFrame[] = []
  #draining: Promise<void> | undefined
  /** A commit's or a whole set's frames that have come so far. */
  #commit: Delta[] = []
  #set: Definition[] = []
  #acknowledged = ''
  #end: SessionEnd | undefined
  readonly #finished: Promise<SessionEnd>
  #finish: (end: SessionEnd) => void = () => undefined

  constructor(
    private readonly replica: Replica,
    private readonly events: SessionEvents,
    private readonly options: SessionOptions,
    construct: SocketConstructor,
    url: string,
  ) {
    this.#finished = new Promise((resolve) => (this.#finish = resolve))
    const socket = new construct(url) as BinarySocket
    this.#socket = socket
    socket.binaryType = 'arraybuffer'
    socket.onopen = () => void this.#handshake().catch((error: unknown) => this.#fail(error))
    socket.onmessage = ({ data }) => this.#receive(data)
    socket.onerror = () => undefined
    socket.onclose = () => this.#close(this.#end ?? new SessionEnd(undefined, true, 0))
  }

  /** Resolves when the session is over and nothing of it is being taken in any more. */
  async ended(): Promise<SessionEnd> {
    const end = await this.#finished
    await this.#draining
    return end
  }

  get isAccepted(): boolean {
    return this.#ack !== undefined
  }

  close(): void {
    this.#close(new SessionEnd(undefined, false, 0))
  }

  #close(end: SessionEnd): void {
    this.#end ??= end
    clearTimeout(this.#pauseTimer)
    clearInterval(this.#pingTimer)
    this.#socket.close()
    this.#finish(this.#end)
  }

  #fail(error: unknown): void {
    const known = error instanceof SpringheadError ? error : new SpringheadError({ code: 'client', message: String(error) })
    this.#close(new SessionEnd(known, known.isTransient || !(error instanceof SpringheadError), 1000))
  }

  #send<K extends keyof DeviceFrames & Kind>(kind: K, body: DeviceFrames[K]): void {
    if (this.#end === undefined) this.#socket.send(encode(kind, body))
  }

  async #handshake(): Promise<void> {
    const { meta } = this.replica
    const token = await this.options.token()
    this.#send('handshake', {
      protocol: PROTOCOL_VERSION,
      ...(token === undefined ? {} : { token }),
      ...(this.options.tenant === undefined ? {} : { tenant: this.options.tenant }),
      device: meta.device,
      producer: meta.producer,
      generation: meta.generation,
      ...(meta.cursor === undefined ? {} : { cursor: meta.cursor }),
      catalog_version: meta.catalogVersion,
      catalog_hash: meta.catalogHash,
      settled: this.replica.settled(),
      shapes: [...this.replica.shapes.keys()].map((id) => this.#subscription(id)),
      client: this.options.client,
    })
  }

  #subscription(id: number): Subscription {
    const record = this.replica.shapes.get(id)
    if (record === undefined) throw new TypeError(`there is no shape ${id}`)
    const { shape, complete, resume } = record
    return { ...shape, ...(complete ? { complete } : {}), ...(resume === undefined ? {} : { resume }) }
  }

  subscribe(shape: number): void {
    if (this.#ack) this.#send('subscribe', this.#subscription(shape))
  }

  unsubscribe(shape: number): void {
    if (this.#ack) this.#send('unsubscribe', { shape })
  }

  setPresence(channel: string, state: string): void {
    if (this.#ack) this.#send('presenceSet', { channel, state })
  }

  leavePresence(channel: string): void {
    if (this.#ack) this.#send('presenceLeave', { channel })
  }

  askPresence(channel: string): void {
    if (this.#ack) this.#send('presenceRoster', { channel })
  }

  /** Pushes what is pending and has not been pushed, as far as the limits let. */
  push(): void {
    const limits = this.#ack?.limits
    if (limits === undefined || nowMs() < this.#pausedUntilMs) return
    const waiting = [...this.replica.pending.values()]
      .filter((mutation) => mutation.appliedLsn === undefined)
      .sort((a, b) => a.seq - b.seq)
    let inFlight = waiting.filter(({ seq }) => seq <= this.#sentUpTo).length
    let batch: Pending[] = []
    let bytes = 0
    for (const mutation of waiting) {
      if (mutation.seq <= this.#sentUpTo) continue
      if (inFlight >= limits.max_in_flight) break
      const size = encode('push', this.#pushOf([mutation])).length
      if (batch.length >= limits.max_push_mutations || bytes + size > limits.max_frame_bytes) {
        this.#send('push', this.#pushOf(batch))
        batch = []
        bytes = 0
      }
      batch.push(mutation)
      bytes += size
      inFlight += 1
      this.#sentUpTo = mutation.seq
    }
    if (batch.length > 0) this.#send('push', this.#pushOf(batch))
  }

  #pushOf(mutations: Pending[]): DeviceFrames['push'] {
    const { producer, generation } = this.replica.meta
    const base = mutations[0]?.base ?? '0'
    const schema = mutations[0]?.schema ?? 0
    const wire = (mutation: Pending): WireMutation => ({
      seq: mutation.seq,
      ...(mutation.base === base ? {} : { base: mutation.base }),
      ...(mutation.schema === schema ? {} : { schema: mutation.schema }),
      ...(mutation.after.length === 0 ? {} : { after: mutation.after }),
      hlc: mutation.hlc,
      ops: mutation.operations,
    })
    return { producer, generation, base, schema, mutations: mutations.map(wire) }
  }

  #receive(data: unknown): void {
    this.#heardMs = nowMs()
    try {
      this.#queue.push(decode(asBytes(data)))
    } catch (error) {
      this.#fail(error)
      return
    }
    this.#draining ??= this.#drain()
      .catch((error: unknown) => this.#fail(error))
      .finally(() => (this.#draining = undefined))
  }

  /** Takes in what has come, all that is there at once. */
  async #drain(): Promise<void> {
    while (this.#queue.length > 0) {
      const frames = this.#queue.splice(0)
      const toStore: ((intake: Intake) => void)[] = []
      const afterwards: (() => void)[] = []
      let rekey = false
      for (const frame of frames) rekey = this.#sort(frame, toStore, afterwards) || rekey
      if (toStore.length > 0) {
        await this.replica.change((meta) => {
          const intake = new Intake(this.replica, meta)
          for (const take of toStore) take(intake)
          return intake.batch()
        })
      }
      if (rekey) await this.#rekey()
      for (const act of afterwards) act()
      this.push()
      if (this.#queue.length === 0) this.#acknowledge()
    }
  }

  /** Says what a frame comes to; whether the producer must be replaced. */
  #sort(frame: ServerFrame, toStore: ((intake: Intake) => void)[], afterwards: (() => void)[]): boolean {
    switch (frame.kind) {
      case 'handshakeAck':
        return this.#answered(frame.body)
      case 'error': {
        const error = new SpringheadError(frame.body)
        if (frame.body.closing) this.#close(new SessionEnd(error, !FINAL.has(error.code), 0))
        return error.code === 'producer_fenced'
      }
      case 'ack': {
        let rekey = false
        for (const verdict of frame.body.verdicts) {
          if (verdict.retry) this.#pause(verdict.retry.after_ms, verdict.seq - 1)
          else if (verdict.gap !== undefined) this.#sentUpTo = Math.min(this.#sentUpTo, verdict.gap - 1)
          else if (verdict.fenced) rekey = true
          else toStore.push((intake) => intake.verdict(verdict))
        }
        return rekey
      }
      case 'reject':
        toStore.push((intake) => intake.reject(frame.body))
        return false
      case 'snapshot':
        toStore.push((intake) => intake.snapshot(frame.body))
        return false
      case 'delta': {
        this.#commit.push(frame.body)
        if (frame.body.more) return false
        const commit = this.#commit.splice(0)
        toStore.push((intake) => intake.delta(commit))
        return false
      }
      case 'unsubscribe': {
        const { shape } = frame.body
        toStore.push((intake) => intake.shapeEnded(shape))
        afterwards.push(() => this.events.shapeEnded(shape, new SpringheadError(frame.body)))
        return false
      }
      case 'definition': {
        const { set } = frame.body
        this.#set.push(frame.body)
        if (set && set[0] < set[1] - 1) return false
        const definitions = this.#set.splice(0)
        toStore.push((intake) => intake.definitions(definitions, set !== undefined))
        return false
      }
      case 'resync':
        toStore.push((intake) => intake.resync(frame.body.shapes ?? []))
        return false
      case 'throttle':
        this.#pause(frame.body.after_ms, this.#sentUpTo)
        if (this.#ack && frame.body.max_in_flight) this.#ack.limits.max_in_flight = frame.body.max_in_flight
        return false
      case 'tokenRefresh':
        void this.refreshToken()
        return false
      case 'tokenAck':
        return false
      case 'clock':
        this.#clockAnswered(frame.body)
        return false
      case 'presenceSet':
        this.events.presence([frame.body], undefined, false)
        return false
      case 'presenceLeave':
        this.events.presence([], frame.body, false)
        return false
      case 'presenceRoster':
        this.events.presence(frame.body.members, { channel: frame.body.channel, device: new Uint8Array() }, true)
        return false
      case 'ping':
        if (!frame.body.reply) this.#send('ping', { nonce: frame.body.nonce, reply: true })
        return false
      case 'handshake':
        return false
    }
  }

  #answered(answer: { accepted?: HandshakeAck; refused?: { code: string; message: string; hint?: string; after_ms?: number } }): boolean {
    if (answer.refused || !answer.accepted) {
      const refused = answer.refused ?? { code: 'protocol_violation', message: 'the handshake was not answered' }
      const error = new SpringheadError(refused)
      this.#close(new SessionEnd(error, !FINAL.has(error.code), refused.after_ms ?? 0))
      return refused.code === 'producer_fenced'
    }
    const ack = answer.accepted
    this.#ack = ack
    this.#sentUpTo = 0
    this.#pingTimer = setInterval(() => this.#keepAlive(ack), ack.limits.ping_interval_ms)
    this.#send('clock', { device_ms: nowMs() })
    this.events.accepted(ack)
    // The server has decided what this device has not made yet: it is an older copy of itself.
    return ack.next_seq > this.replica.meta.nextSeq
  }

  #keepAlive(ack: HandshakeAck): void {
    if (nowMs() - this.#heardMs > ack.limits.idle_timeout_ms) this.#close(new SessionEnd(undefined, true, 0))
    else this.#send('ping', { nonce: nowMs() })
  }

  /** Sends a fresh token, before the present one's time is over. */
  async refreshToken(): Promise<void> {
    const token = await this.options.token().catch(() => undefined)
    if (token !== undefined) this.#send('tokenRefresh', { token })
  }

  #clockAnswered({ device_ms, server_ms }: { device_ms: number; server_ms: number }): void {
    const now = nowMs()
    this.events.clock(server_ms + (now - device_ms) / 2 - now)
  }

  /** Pushes nothing for a while, then everything after `upTo` again. */
  #pause(afterMs: number, upTo: number): void {
    this.#sentUpTo = Math.min(this.#sentUpTo, upTo)
    const untilMs = nowMs() + afterMs
    if (untilMs <= this.#pausedUntilMs) return
    this.#pausedUntilMs = untilMs
    this.events.throttled(untilMs)
    clearTimeout(this.#pauseTimer)
    this.#pauseTimer = setTimeout(() => {
      this.#pausedUntilMs = 0
      this.push()
    }, afterMs)
  }

  /** Tells what is durable here, so that the server may forget it. */
  #acknowledge(): void {
    if (this.#ack === undefined || this.replica.meta.cursor === undefined) return
    const { producer, generation, cursor } = this.replica.meta
    const settled = this.replica.settled()
    const told = `${cursor} ${settled}`
    if (told === this.#acknowledged) return
    this.#acknowledged = told
    this.#send('ack', { cursor, ...(settled === 0 ? {} : { settled: [{ producer, generation, seq: settled }] }) })
  }

  /**
   * This device is a copy, or an older state, of another: what it has pending gets a new producer,
   * numbered from 1, and the connection starts over.
   */
  async #rekey(): Promise<void> {
    await this.replica.change((meta) => {
      const undecided = [...this.replica.pending.values()]
        .filter((mutation) => mutation.appliedLsn === undefined)
        .sort((a, b) => a.seq - b.seq)
      const renamed = new Map(undecided.map(({ seq }, at) => [seq, at + 1]))
      meta.producer = randomId()
      meta.generation = 1
      meta.nextSeq = undecided.length + 1
      const remove = [...this.replica.pending.keys()].map((seq) => keys.mutation(seq))
      const put = undecided.map((mutation): [string, Pending] => {
        const seq = renamed.get(mutation.seq) ?? 0
        const after = mutation.after.flatMap((other) => renamed.get(other) ?? [])
        return [keys.mutation(seq), { ...mutation, seq, after }]
      })
      const written = new Set(put.map(([key]) => key))
      return { put, remove: remove.filter((key) => !written.has(key)) }
    })
    this.#close(new SessionEnd(undefined, true, 0))
  }

  /** Whether the image has come at least as far as `lsn`. */
  hasReached(lsn: number): boolean {
    const { cursor } = this.replica.meta
    return cursor !== undefined && lsnOf(cursor) >= lsn
  }

  /** Whether presence of `device` is this device's own. */
  isOwnDevice(device: Uint8Array): boolean {
    return sameBytes(device, this.replica.meta.device)
  }
}

function asBytes(data: unknown): Uint8Array {
  if (data instanceof ArrayBuffer) return new Uint8Array(data)
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  throw new SpringheadError({ code: 'protocol_violation', message: 'the server sent text where bytes are due' })
}
