/**
 * One connection to the server, from the handshake to its end: pushes what is pending, takes in what
 * comes. All that a connection needs to know is in the replica; a broken one loses nothing.
 */

import { pause } from '../backoff.js'
import type { Socket, SocketConstructor } from '../live.js'
import { SpringheadError } from '../errors.js'
import { nowMs } from './clock.js'
import { decode, encode, PROTOCOL_VERSION, type Kind, type ServerFrame } from './frames.js'
import { Intake } from './intake.js'
import type { Definition, Delta, DeviceFrames, HandshakeAck, PresenceMember, Refused, ServerFrames, Subscription } from './messages.js'
import { Pushing } from './pushing.js'
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
  /** Something that the server refused without an end to the session. */
  refused(error: SpringheadError): void
  /** The session goes on: what must be said again from time to time is said again. */
  alive(): void
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
  'unauthenticated', 'token_expired', 'forbidden', 'unknown_tenant', 'taken_over', 'bad_shape',
])

/** Tokens are refreshed no more often. */
const LEAST_REFRESH_MS = 1000

/** How long a connection may take from the first packet to the answered handshake. */
const OPENING_MS = 30_000
/** A cursor that nothing else is told with is told this long after it was reached. */
const CURSOR_ACK_MS = 1000

interface BinarySocket extends Socket {
  binaryType: string
  send(data: string | Uint8Array): void
}

export class Session {
  readonly #socket: BinarySocket
  #ack: HandshakeAck | undefined
  /** Shapes that the server has been told of. */
  readonly #told = new Set<number>()
  readonly #pushing: Pushing
  #refreshedMs = 0
  #ackTimer: ReturnType<typeof setTimeout> | undefined
  #openingTimer: ReturnType<typeof setTimeout>
  /** The catalog version at which definitions were asked for again: once is enough. */
  #askedDefinitions = -1
  #pingTimer: ReturnType<typeof setInterval> | undefined
  #heardMs = nowMs()
  #queue: ServerFrame[] = []
  #draining: Promise<void> | undefined
  #isDraining = false
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
    this.#pushing = new Pushing(replica, (push) => this.#send('push', push), (untilMs) => events.throttled(untilMs))
    const socket = new construct(url) as BinarySocket
    this.#socket = socket
    socket.binaryType = 'arraybuffer'
    socket.onopen = () => void this.#handshake().catch((error: unknown) => this.#fail(error))
    socket.onmessage = ({ data }) => this.#receive(data)
    socket.onerror = () => undefined
    socket.onclose = () => this.#close(this.#end ?? new SessionEnd(undefined, true, 0))
    this.#openingTimer = setTimeout(() => this.lose(), OPENING_MS)
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

  /** The network is gone, whatever the socket thinks. */
  lose(): void {
    this.#close(new SessionEnd(undefined, true, 0))
  }

  #close(end: SessionEnd): void {
    this.#end ??= end
    this.#pushing.end()
    clearInterval(this.#pingTimer)
    clearTimeout(this.#ackTimer)
    clearTimeout(this.#openingTimer)
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
    const shapes = [...this.replica.shapes.keys()]
    for (const shape of shapes) this.#told.add(shape)
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
      shapes: shapes.map((id) => this.#subscription(id)),
      client: this.options.client,
    })
  }

  #subscription(id: number): Subscription {
    const record = this.replica.shapes.get(id)
    if (record === undefined) throw new TypeError(`there is no shape ${id}`)
    const { shape, complete, resume } = record
    return { ...shape, ...(complete ? { complete } : {}), ...(resume === undefined ? {} : { resume }) }
  }

  /** What has been written here, in this tab or another, goes to the server. */
  follow(): void {
    if (this.#ack === undefined) return
    for (const id of this.replica.shapes.keys()) {
      if (this.#told.has(id)) continue
      this.#told.add(id)
      this.#send('subscribe', this.#subscription(id))
    }
    for (const id of this.#told) {
      if (this.replica.shapes.has(id)) continue
      this.#told.delete(id)
      this.#send('unsubscribe', { shape: id })
    }
    this.push()
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
    if (this.#ack) this.#pushing.push(this.#ack.limits)
  }

  #receive(data: unknown): void {
    if (this.#end !== undefined) return
    this.#heardMs = nowMs()
    try {
      this.#queue.push(decode(asBytes(data)))
    } catch (error) {
      this.#fail(error)
      return
    }
    if (this.#isDraining) return
    this.#isDraining = true
    this.#draining = this.#drain().catch((error: unknown) => this.#fail(error))
  }

  /** Takes in what has come, all that is there at once. */
  async #drain(): Promise<void> {
    try {
      while (this.#queue.length > 0) await this.#takeIn(this.#queue.splice(0))
    } finally {
      this.#isDraining = false
    }
  }

  async #takeIn(frames: ServerFrame[]): Promise<void> {
    const toStore: ((intake: Intake) => void)[] = []
    const afterwards: (() => void)[] = []
    let rekey = false
    for (const frame of frames) rekey = this.#sort(frame, toStore, afterwards) || rekey
    if (toStore.length > 0) await this.#store(toStore)
    for (const act of afterwards) act()
    const { heldFrom } = this.replica.meta
    if (rekey || (heldFrom !== undefined && this.replica.firstUndecided() >= heldFrom)) await this.#rekey()
    this.push()
    this.#acknowledge()
  }

  async #store(toStore: ((intake: Intake) => void)[]): Promise<void> {
    let hasDiverged = false
    await this.replica.change((meta) => {
      const intake = new Intake(this.replica, meta)
      for (const take of toStore) take(intake)
      hasDiverged = intake.hasDiverged
      return intake.batch()
    })
    const { catalogVersion } = this.replica.meta
    if (!hasDiverged || this.#askedDefinitions === catalogVersion) return
    this.#askedDefinitions = catalogVersion
    this.#send('resync', { reason: 'catalog_diverged', definitions: true })
  }

  /** Says what a frame comes to; whether the producer must be replaced. */
  #sort(frame: ServerFrame, toStore: ((intake: Intake) => void)[], afterwards: (() => void)[]): boolean {
    switch (frame.kind) {
      case 'handshakeAck':
        return this.#answered(frame.body, toStore)
      case 'error': {
        const error = new SpringheadError(frame.body)
        if (frame.body.closing) this.#close(new SessionEnd(error, !FINAL.has(error.code), 0))
        else this.events.refused(error)
        return error.code === 'producer_fenced'
      }
      case 'ack': {
        let rekey = false
        for (const verdict of frame.body.verdicts) {
          this.#pushing.answered(verdict.seq)
          if (verdict.retry) this.#pushing.pause(verdict.retry.after_ms, verdict.seq)
          else if (verdict.gap !== undefined) rekey = this.#pushing.gap(verdict.gap) || rekey
          else if (verdict.fenced) rekey = true
          else toStore.push((intake) => intake.verdict(verdict))
        }
        return rekey
      }
      case 'reject':
        this.#pushing.answered(frame.body.seq)
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
        this.#told.delete(shape)
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
        this.#pushing.pause(frame.body.after_ms)
        if (this.#ack && frame.body.max_in_flight) this.#ack.limits.max_in_flight = frame.body.max_in_flight
        return false
      case 'tokenRefresh':
        void this.refreshToken()
        return false
      case 'tokenAck': {
        const { accepted, code = 'unauthenticated', message = 'the token was refused' } = frame.body
        if (!accepted) this.events.refused(new SpringheadError({ code, message }))
        return false
      }
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

  #answered(answer: ServerFrames['handshakeAck'], toStore: ((intake: Intake) => void)[]): boolean {
    if (answer.refused || !answer.accepted) {
      const unanswered: Omit<Refused, 'protocols'> = { code: 'protocol_violation', message: 'the handshake was not answered' }
      const refused = answer.refused ?? unanswered
      const error = new SpringheadError(refused)
      this.#close(new SessionEnd(error, !FINAL.has(error.code), refused.after_ms ?? 0))
      return refused.code === 'producer_fenced'
    }
    const ack = answer.accepted
    this.#ack = ack
    clearTimeout(this.#openingTimer)
    this.#pingTimer = setInterval(() => this.#keepAlive(ack), ack.limits.ping_interval_ms)
    this.#send('clock', { device_ms: nowMs() })
    this.events.accepted(ack)
    this.follow()
    const { nextSeq } = this.replica.meta
    // The server has decided what this device has not made yet: it is a copy. What it has may have been
    // decided too, under its name; what it makes from now on has not.
    if (ack.next_seq > nextSeq) toStore.push((intake) => intake.hold(nextSeq))
    // The server knows less than it has told: its history was lost.
    return ack.next_seq < this.replica.firstUndecided()
  }

  #keepAlive(ack: HandshakeAck): void {
    if (nowMs() - this.#heardMs > ack.limits.idle_timeout_ms) this.#close(new SessionEnd(undefined, true, 0))
    else {
      this.#send('ping', { nonce: nowMs() })
      this.events.alive()
    }
  }

  /** Sends a fresh token, before the present one's time is over. Short ones are asked for without a pause. */
  async refreshToken(): Promise<void> {
    const waitMs = this.#refreshedMs + LEAST_REFRESH_MS - nowMs()
    this.#refreshedMs = nowMs() + Math.max(0, waitMs)
    if (waitMs > 0) await pause(waitMs)
    if (this.#end !== undefined) return
    const token = await this.options.token().catch(() => undefined)
    if (token !== undefined) this.#send('tokenRefresh', { token })
  }

  #clockAnswered({ device_ms, server_ms }: { device_ms: number; server_ms: number }): void {
    const now = nowMs()
    this.events.clock(server_ms + (now - device_ms) / 2 - now)
  }

  /** Tells what is durable here, so that the server may forget it: soon, but not for each frame. */
  #acknowledge(): void {
    if (this.#pushing.shouldAcknowledge) this.#sendAck()
    else this.#ackTimer ??= setTimeout(() => this.#sendAck(), CURSOR_ACK_MS)
  }

  #sendAck(): void {
    clearTimeout(this.#ackTimer)
    this.#ackTimer = undefined
    this.#pushing.acknowledged()
    const { producer, generation, cursor } = this.replica.meta
    const settled = this.replica.settled()
    const told = `${cursor} ${settled}`
    if (this.#ack === undefined || told === this.#acknowledged) return
    this.#acknowledged = told
    this.#send('ack', {
      ...(cursor === undefined ? {} : { cursor }),
      ...(settled === 0 ? {} : { settled: [{ producer, generation, seq: settled }] }),
    })
  }

  /**
   * This device is a copy, or an older state, of another: what it has pending gets a new producer,
   * numbered from 1, and the connection starts over.
   */
  async #rekey(): Promise<void> {
    // Nothing more goes out in this session.
    this.#pushing.end()
    await this.replica.change((meta) => {
      const undecided = [...this.replica.pending.values()]
        .filter((mutation) => mutation.appliedLsn === undefined)
        .sort((a, b) => a.seq - b.seq)
      const renamed = new Map(undecided.map(({ seq }, at) => [seq, at + 1]))
      meta.producer = randomId()
      meta.generation = 1
      delete meta.heldFrom
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
