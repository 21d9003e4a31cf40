/**
 * A device: holds part of the database, is written to and read without a network, and converges
 * with the server when there is one. Every write gets a verdict; a rejected one is kept, with what
 * can be done about it, until the application has dealt with it.
 */

import { Backoff, pause } from '../backoff.js'
import { SpringheadError } from '../errors.js'
import type { TokenSource } from '../http.js'
import type { SocketConstructor } from '../live.js'
import { pack, type Packable } from '../msgpack.js'
import { applyOperation } from './apply.js'
import { nowMs, tick } from './clock.js'
import { Collection, Writer, type Write } from './collection.js'
import type { Columns, Fix, HandshakeAck, Operation, Shape, SyncValue } from './messages.js'
import { keys, Replica, type Pending, type Rejection, type ShapeRecord } from './replica.js'
import { Presence } from './presence.js'
import { Session, SessionEnd } from './session.js'
import { MemoryStore, type Store } from './store.js'
import { Tabs, type Connection } from './tabs.js'
import { keyText, lsnOf } from './values.js'

/**
 * A connection that was given up may get to the server after the one that followed it, and take its place:
 * so it is tried again. Of two copies of a device that take it from each other one steps back after so
 * many times in a row.
 */
const MOST_TAKEOVERS = 3
/** A connection that has lasted as long was not taken in a row with the one before it. */
const LASTING_MS = 60_000
/** Who has stepped back comes again by itself after this long, or up to twice as long. */
const STEPPED_BACK_MS = 300_000

/** What a server takes, unless it is configured otherwise. */
const MAX_MUTATION_BYTES = 256 * 1024

export interface DeviceOptions {
  /** Names what is kept, for this origin. */
  name: string
  /** Where to keep it; IndexedDB where there is one, else memory. */
  store?: Store
  /** The server; left out, the device works alone until `connect`. */
  url?: string
  token?: TokenSource
  /** The tenant, by name; by the credentials if left out. */
  tenant?: string
  /** Name and version of the application, for people who look at the server. */
  client?: string
  webSocket?: SocketConstructor
}

export interface ConnectOptions {
  url: string
  token?: TokenSource
}

/** Which documents of a collection the device holds. */
export interface ShapeOptions {
  /** A condition of Springhead SQL with `$1`… for `params`. All rows if left out. */
  where?: string
  params?: SyncValue[]
  columns?: string[]
}

export type ConnectionState =
  /** Nobody has asked for a connection. */
  | 'alone'
  /** No server is reached; it is tried again. */
  | 'offline'
  | 'connecting'
  | 'online'
  /**
   * A copy of this device has taken the connection again and again. It comes back when the page is
   * looked at, the network comes back or `retryNow` is called, and now and then by itself.
   */
  | 'elsewhere'
  /** The server refused for good; `error` says why. */
  | 'refused'

export interface Status {
  /** How the connection is; of several tabs one has it, for all. */
  state: ConnectionState
  /** Whether it is this tab's. */
  leads: boolean
  /** Connected, and everything is here that the server had when the connection began. */
  live: boolean
  /** Mutations without a verdict. */
  pending: number
  rejections: number
  /** Whether every shape has all its rows. */
  complete: boolean
  /** Everything of the server up to here is on the device. */
  cursor: string | undefined
  /** The server has asked for a pause until then. */
  throttledUntilMs: number | undefined
  /** Why there is no connection, or what the server has refused, if it said so. */
  error: SpringheadError | undefined
  /** Whether the platform has promised to keep what is stored. If not, tell the user. */
  persistent: boolean
  /** The server's clock less the device's, in milliseconds. */
  clockOffsetMs: number
}

export class Device {
  readonly presence: Presence
  readonly #options: DeviceOptions
  readonly #store: Store
  readonly #tabs: Tabs
  readonly #listeners = new Set<(status: Status) => void>()
  readonly #keyColumns = new Map<string, string[]>()
  readonly #end = new AbortController()
  #target: ConnectOptions | undefined
  #session: Session | undefined
  #running = false
  #wake = new AbortController()
  #state: ConnectionState = 'alone'
  #leads = false
  /** Where the server was when the connection began. */
  #liveFrom = 0
  #error: SpringheadError | undefined
  #throttledUntilMs: number | undefined
  #persistent = false
  #clockOffsetMs = 0

  private constructor(
    options: DeviceOptions,
    store: Store,
    tabs: Tabs,
    /** @internal */ readonly replica: Replica,
  ) {
    this.#options = options
    this.#store = store
    this.#tabs = tabs
    this.presence = new Presence(() => this.#session, replica.meta.device, {
      leads: () => this.#leads,
      say: (presence) => tabs.sayPresence(presence),
      show: (channel, members) => tabs.showMembers(channel, members),
    })
    replica.onChange(() => {
      this.#session?.follow()
      this.#tell()
    })
    if (options.url !== undefined) {
      this.connect({ url: options.url, ...(options.token === undefined ? {} : { token: options.token }) })
    }
  }

  /** Opens what is kept under the name, or makes a new device. */
  static async open(options: DeviceOptions): Promise<Device> {
    const store = options.store ?? (await defaultStore(options.name))
    const tabs = new Tabs(options.name)
    const replica = await Replica.open(store, (version, batch) => tabs.announce(version, batch))
    const device = new Device(options, store, tabs, replica)
    tabs.listen({
      batch: (version, batch) => void replica.absorb(version, batch),
      connection: (connection) => device.#follow(connection),
      question: () => device.#leads && device.#announce(),
      wake: () => device.#leads && device.#tryNow(),
      presence: (said) => device.#leads && device.presence.hear(said),
      members: (channel, members) => device.#leads || device.presence.follow(channel, members),
    })
    device.#watchPage()
    device.#persistent = await store.isPersistent()
    device.#tell()
    return device
  }

  /** Connects, and stays connected as well as it can. Resolves nothing: see `status`. */
  connect(target: ConnectOptions): void {
    this.#target = target
    this.#wake.abort()
    this.#session?.close()
    if (!this.#running) {
      this.#running = true
      void this.#tabs.lead(this.#end.signal, () => this.#run())
    }
  }

  /** Goes on alone. */
  disconnect(): void {
    this.#target = undefined
    this.#session?.close()
    this.#set('alone')
  }

  /** Tries to connect at once, if it waits for the next try. In any tab; the one that leads does it. */
  retryNow(): void {
    if (this.#leads) this.#tryNow()
    else this.#tabs.wake()
  }

  #tryNow(): void {
    if (this.#state === 'offline' || this.#state === 'elsewhere') this.#wake.abort()
  }

  /** Somebody who looks at the page waits, whichever of its tabs leads. */
  #watchPage(): void {
    const page = (globalThis as { document?: Document }).document
    page?.addEventListener('visibilitychange', () => page.visibilityState === 'visible' && this.retryNow(), {
      signal: this.#end.signal,
    })
  }

  /** Lets go of everything. What is stored stays. */
  async close(): Promise<void> {
    this.#end.abort()
    this.#wake.abort()
    const session = this.#session
    session?.close()
    await session?.ended()
    this.presence.end()
    this.#tabs.close()
    await this.#store.close()
    this.#listeners.clear()
  }

  get status(): Status {
    const { rejections, shapes, meta } = this.replica
    const complete = [...shapes.values()].every((shape) => shape.complete)
    const hasCome = meta.cursor !== undefined && lsnOf(meta.cursor) >= this.#liveFrom
    return {
      state: this.#state,
      leads: this.#leads,
      live: this.#state === 'online' && complete && (hasCome || shapes.size === 0),
      pending: this.replica.undecided,
      rejections: rejections.size,
      complete,
      cursor: meta.cursor,
      throttledUntilMs: this.#throttledUntilMs,
      error: this.#error,
      persistent: this.#persistent,
      clockOffsetMs: this.#clockOffsetMs,
    }
  }

  /** Calls `listener` now and whenever something changes; returns how to stop. */
  onStatus(listener: (status: Status) => void): () => void {
    this.#listeners.add(listener)
    listener(this.status)
    return () => this.#listeners.delete(listener)
  }

  /** Resolves with the first status for which `test` holds. */
  when(test: (status: Status) => boolean): Promise<Status> {
    return new Promise((resolve) => {
      let stop: (() => void) | undefined
      stop = this.onStatus((status) => {
        if (!test(status)) return
        queueMicrotask(() => stop?.())
        resolve(status)
      })
    })
  }

  #tell(): void {
    const status = this.status
    for (const listener of this.#listeners) listener(status)
  }

  #set(state: ConnectionState, error?: SpringheadError): void {
    this.#state = state
    this.#error = error
    this.#announce()
    this.#tell()
  }

  /** Tells the other tabs how the connection is. */
  #announce(): void {
    const { code, message, hint } = this.#error ?? {}
    this.#tabs.tell({
      state: this.#state,
      throttledUntilMs: this.#throttledUntilMs,
      clockOffsetMs: this.#clockOffsetMs,
      error: code === undefined || message === undefined ? undefined : { code, message, ...(hint ? { hint } : {}) },
    })
  }

  /** Another tab leads, and says so. */
  #follow(connection: Connection): void {
    if (this.#leads) return
    this.#state = connection.state
    this.#throttledUntilMs = connection.throttledUntilMs
    this.#clockOffsetMs = connection.clockOffsetMs
    this.#error = connection.error && new SpringheadError(connection.error)
    if (connection.state === 'online') this.presence.repeat()
    else this.presence.clear()
    this.#tell()
  }

  // Documents

  /** A collection; `key` names its key's columns where no shape has told them yet (default `id`). */
  collection<T = Columns>(name: string, options: { key?: string[] } = {}): Collection<T> {
    if (options.key) this.#keyColumns.set(name, options.key)
    return new Collection<T>(this, name)
  }

  /** @internal */
  keyColumns(collection: string): string[] {
    return this.replica.keyColumns(collection) ?? this.#keyColumns.get(collection) ?? ['id']
  }

  /**
   * Several operations as one mutation: applied wholly or not at all. `build` must not wait for
   * anything. Durable on the device when the promise resolves.
   */
  async transaction(build: (collection: <T = Columns>(name: string) => Writer<T>) => void): Promise<Write> {
    const operations: Operation[] = []
    const look = (name: string, key: string): Columns | undefined => {
      let columns = this.replica.view(name, key)
      for (const operation of operations) {
        if (operation.in === name && keyText(operation.id) === key) {
          columns = applyOperation(columns, operation, this.replica.table(name))
        }
      }
      return columns
    }
    build((name) => new Writer(this, name, (operation) => operations.push(operation), (key) => look(name, key)))
    return this.#enqueue(operations)
  }

  async #enqueue(operations: Operation[], answered?: string): Promise<Write> {
    if (operations.length === 0) throw new TypeError('a mutation without an operation')
    const bytes = pack(operations as unknown as Packable).length
    if (bytes > MAX_MUTATION_BYTES) {
      throw new RangeError(`a mutation of ${bytes} bytes: a server takes ${MAX_MUTATION_BYTES} at most; make several of it`)
    }
    let seq = 0
    await this.replica.change((meta) => {
      seq = meta.nextSeq++
      meta.hlc = tick(meta.hlc, Math.round(nowMs() + this.#clockOffsetMs))
      const mutation: Pending = {
        seq,
        base: meta.cursor ?? '0',
        schema: meta.catalogVersion,
        after: this.#dependencies(operations),
        hlc: meta.hlc,
        operations,
        madeAtMs: nowMs(),
      }
      return { put: [[keys.mutation(seq), mutation]], remove: answered === undefined ? [] : [keys.rejection(answered)] }
    })
    return { seq }
  }

  /** Undecided mutations that made a document which these touch: without it they make no sense. */
  #dependencies(operations: Operation[]): number[] {
    const found = new Set<number>()
    for (const operation of operations) {
      const key = keyText(operation.id)
      for (const mutation of this.replica.pendingOf(operation.in, key)) {
        if (mutation.appliedLsn !== undefined) continue
        const makes = (other: Operation): boolean =>
          other.insert !== undefined && other.in === operation.in && keyText(other.id) === key
        if (mutation.operations.some(makes)) found.add(mutation.seq)
      }
    }
    return [...found].sort((a, b) => a - b)
  }

  // Verdicts

  /** Mutations without a verdict, in order. */
  pending(): Pending[] {
    return [...this.replica.pending.values()]
      .filter(({ appliedLsn }) => appliedLsn === undefined)
      .sort((a, b) => a.seq - b.seq)
  }

  /** Rejected mutations that the application has not dealt with, with their original values. */
  rejections(): Rejection[] {
    return [...this.replica.rejections.values()].sort((a, b) => a.rejectedAtMs - b.rejectedAtMs)
  }

  /** The application has dealt with a rejection. */
  async acknowledge(id: string): Promise<void> {
    await this.replica.change(() => ({ put: [], remove: [keys.rejection(id)] }))
  }

  /** Writes a rejected mutation again, with `fix` (one of its hint's, say) or other operations. */
  async retry(id: string, fix?: Fix | Operation[]): Promise<Write> {
    const rejection = this.replica.rejections.get(id)
    if (rejection === undefined) throw new TypeError(`there is no rejection ${id}`)
    const operations = Array.isArray(fix) ? fix : applyFix(rejection.operations, fix, (name) => this.keyColumns(name))
    return this.#enqueue(operations, id)
  }

  // Shapes

  /** Holds the documents of a shape from now on; the same shape twice is one. */
  async subscribe(collection: string, options: ShapeOptions = {}): Promise<number> {
    const { where, params, columns } = options
    const wanted = {
      in: collection,
      ...(where === undefined ? {} : { where }),
      ...(params === undefined ? {} : { params }),
      ...(columns === undefined ? {} : { columns }),
    }
    for (const { shape } of this.replica.shapes.values()) {
      if (keyText([JSON.stringify({ ...shape, shape: 0 })]) === keyText([JSON.stringify({ shape: 0, ...wanted })])) {
        return shape.shape
      }
    }
    let id = 0
    await this.replica.change((meta) => {
      id = meta.nextShape++
      const shape: Shape = { shape: id, ...wanted }
      const record: ShapeRecord = { shape, complete: false, pass: 0 }
      return { put: [[keys.shape(id), record]], remove: [] }
    })
    return id
  }

  /** Holds a shape's documents no longer. */
  async unsubscribe(id: number): Promise<void> {
    const record = this.replica.shapes.get(id)
    if (record === undefined) return
    await this.replica.change(() => {
      const batch = { put: [] as [string, unknown][], remove: [keys.shape(id)] }
      for (const document of this.replica.images(record.shape.in)) {
        if (!(id in document.shapes)) continue
        const shapes = { ...document.shapes }
        delete shapes[id]
        const key = keys.document(document.collection, document.id)
        if (Object.keys(shapes).length === 0) batch.remove.push(key)
        else batch.put.push([key, { ...document, shapes }])
      }
      return batch
    })
  }

  // The connection

  async #run(): Promise<void> {
    this.#leads = true
    const backoff = new Backoff(1000, 60_000)
    let takeovers = 0
    while (!this.#end.signal.aborted) {
      this.#wake = new AbortController()
      if (this.#target === undefined) {
        await pause(2 ** 30, this.#wake.signal)
        continue
      }
      const begunMs = nowMs()
      const end = await this.#connectOnce(this.#target, () => backoff.reset())
      if (this.#end.signal.aborted) return
      const isOurs = end.error === undefined && !end.mayReconnect
      if (isOurs) continue
      const isTakeover = end.error?.code === 'taken_over'
      takeovers = !isTakeover ? 0 : nowMs() - begunMs < LASTING_MS ? takeovers + 1 : 1
      if (takeovers >= MOST_TAKEOVERS) {
        this.#set('elsewhere', end.error)
        await this.#untilWorthTrying(STEPPED_BACK_MS * (1 + Math.random()))
        continue
      }
      const triesAgain = end.mayReconnect || isTakeover
      this.#set(triesAgain ? 'offline' : 'refused', end.error)
      await this.#untilWorthTrying(triesAgain ? backoff.nextMs(end.afterMs) : 2 ** 30)
    }
  }

  /** Waits, but not when the platform says that the network is back. */
  async #untilWorthTrying(ms: number): Promise<void> {
    const target = globalThis as unknown as Partial<EventTarget>
    const online = (): void => this.#wake.abort()
    target.addEventListener?.('online', online)
    await pause(ms, this.#wake.signal)
    target.removeEventListener?.('online', online)
  }

  async #connectOnce({ url, token }: ConnectOptions, accepted: () => void): Promise<SessionEnd> {
    this.#set('connecting')
    const socket =
      this.#options.webSocket ?? (globalThis as unknown as { WebSocket?: SocketConstructor }).WebSocket
    if (socket === undefined) {
      const error = new SpringheadError({ code: 'client', message: 'there is no WebSocket here: give one as `webSocket`' })
      return new SessionEnd(error, false, 0)
    }
    const address = new URL('/sync', url)
    address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:'
    const events = {
      accepted: (ack: HandshakeAck): void => {
        accepted()
        this.#liveFrom = lsnOf(ack.cursor)
        this.#throttledUntilMs = undefined
        this.#set('online')
        this.presence.announce()
      },
      throttled: (untilMs: number): void => {
        this.#throttledUntilMs = untilMs
        this.#tell()
      },
      shapeEnded: (_: number, error: SpringheadError): void => this.#set(this.#state, error),
      refused: (error: SpringheadError): void => this.#set(this.#state, error),
      alive: (): void => {
        this.presence.announce()
        // The other tabs say again what they show.
        this.#announce()
      },
      presence: this.presence.take.bind(this.presence),
      clock: (offsetMs: number): void => {
        this.#clockOffsetMs = offsetMs
      },
    }
    const options = {
      token: async (): Promise<string | undefined> => (typeof token === 'function' ? await token() : token),
      client: this.#options.client ?? 'springhead-js/0.1.0',
      ...(this.#options.tenant === undefined ? {} : { tenant: this.#options.tenant }),
    }
    const session = new Session(this.replica, events, options, socket, address.href)
    this.#session = session
    const platform = globalThis as unknown as Partial<EventTarget>
    const lose = (): void => session.lose()
    platform.addEventListener?.('offline', lose)
    const end = await session.ended()
    platform.removeEventListener?.('offline', lose)
    this.#session = undefined
    this.presence.clear()
    return end
  }
}

/** A rejected mutation's operations with one fix. */
export function applyFix(operations: Operation[], fix: Fix | undefined, keyOf: (collection: string) => string[]): Operation[] {
  if (fix === undefined || fix.fix === 'resync_definitions') return operations
  if (fix.fix === 'create_row') {
    const id = keyOf(fix.collection).map((column) => fix.columns[column] ?? null)
    return [{ in: fix.collection, id, insert: fix.columns }, ...operations]
  }
  return operations.map((operation, at) => (at === fix.operation ? fixColumn(operation, fix, keyOf(operation.in)) : operation))
}

function fixColumn(
  operation: Operation,
  fix: Extract<Fix, { operation: number }>,
  key: string[],
): Operation {
  const verb = (['insert', 'set', 'inc', 'min', 'max'] as const).find((name) => operation[name] !== undefined)
  if (verb === undefined) return operation
  const columns: Columns = { ...operation[verb] }
  if (fix.fix === 'set_column') columns[fix.column] = fix.value
  else delete columns[fix.column]
  const keyAt = key.indexOf(fix.column)
  const id = [...operation.id]
  if (fix.fix === 'set_column' && keyAt >= 0) id[keyAt] = fix.value
  return { ...operation, id, [verb]: columns }
}

async function defaultStore(name: string): Promise<Store> {
  if (typeof globalThis.indexedDB === 'undefined') return new MemoryStore()
  const { IndexedDbStore } = await import('./indexeddb.js')
  return IndexedDbStore.open(name)
}
