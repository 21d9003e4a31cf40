/**
 * Live queries over one WebSocket: any number of SELECTs whose results stay true, all moving from
 * commit to commit together. A broken connection is made again, and each query goes on from its
 * cursor with the net difference.
 */

import { Backoff, pause } from './backoff.js'
import { SpringheadError, type ErrorBody } from './errors.js'
import type { Http, Row } from './http.js'
import { Result, type Delta, type Snapshot } from './result.js'

/** The part of a WebSocket that is needed: a browser's, Node's, or the `ws` package's. */
export interface Socket {
  onopen: ((event: never) => void) | null
  onmessage: ((event: { data: unknown }) => void) | null
  onclose: ((event: never) => void) | null
  onerror: ((event: never) => void) | null
  send(text: string): void
  close(): void
}

export type SocketConstructor = new (url: string) => Socket

export interface LiveState<T = Row> {
  rows: readonly T[]
  /** Whether the first result is whole. */
  ready: boolean
  /** The cursor that `rows` are the result at. */
  cursor: string | undefined
  /** Whether the server is reached now; rows stay as they last were while it is not. */
  connected: boolean
}

type Listener<T> = (state: LiveState<T>) => void

/** One query. Made by `LiveConnection.query`. */
export class LiveQuery<T = Row> {
  readonly sql: string
  readonly params: readonly unknown[]
  /** @internal */ readonly result = new Result()
  /** @internal */ liveId: number | undefined
  /** @internal */ changed = false
  #listeners = new Set<Listener<T>>()
  #error: SpringheadError | undefined
  #rows: readonly T[] = []
  #cursor: string | undefined
  #ready = false
  #connected = false
  #waiting: { resolve: (rows: readonly T[]) => void; reject: (error: Error) => void }[] = []

  /** @internal */
  constructor(
    private readonly connection: LiveConnection,
    sql: string,
    params: readonly unknown[],
  ) {
    this.sql = sql
    this.params = params
  }

  get state(): LiveState<T> {
    return { rows: this.#rows, ready: this.#ready, cursor: this.#cursor, connected: this.#connected }
  }

  /** Why the query has ended, if it has. */
  get error(): SpringheadError | undefined {
    return this.#error
  }

  /** Calls `listener` now and after every commit that changes the result; returns how to stop. */
  subscribe(listener: Listener<T>): () => void {
    this.#listeners.add(listener)
    listener(this.state)
    return () => this.#listeners.delete(listener)
  }

  /** The first whole result. */
  first(): Promise<readonly T[]> {
    if (this.#error) return Promise.reject(this.#error)
    if (this.#ready) return Promise.resolve(this.#rows)
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
  }

  close(): void {
    this.connection.forget(this as unknown as LiveQuery<never>)
    this.#listeners.clear()
    this.end(new SpringheadError({ code: 'closed', message: 'the live query was closed' }))
  }

  /** @internal The commit that has been taken in is whole. */
  publish(): void {
    if (!this.changed) return
    this.changed = false
    this.#rows = this.result.rows() as readonly T[]
    this.#cursor = this.result.cursor
    this.#ready ||= this.result.ready
    if (this.#ready) for (const { resolve } of this.#waiting.splice(0)) resolve(this.#rows)
    this.#tell()
  }

  /** @internal */
  setConnected(connected: boolean): void {
    if (this.#connected === connected) return
    this.#connected = connected
    this.#tell()
  }

  /** @internal */
  end(error: SpringheadError): void {
    if (this.#error) return
    this.#error = error
    for (const { reject } of this.#waiting.splice(0)) reject(error)
    this.#tell()
  }

  #tell(): void {
    const state = this.state
    for (const listener of this.#listeners) listener(state)
  }
}

interface Answer {
  resolve: (result: unknown) => void
  reject: (error: Error) => void
}

interface Message {
  id?: number
  result?: unknown
  error?: { code: number; message: string; data?: ErrorBody }
  method?: string
  params?: { live_id?: number; lsn?: number } & Record<string, unknown>
}

/** A connection that keeps live queries. It connects with the first query and ends with `close`. */
export class LiveConnection {
  readonly #http: Http
  readonly #construct: SocketConstructor
  readonly #queries = new Set<LiveQuery<never>>()
  readonly #byId = new Map<number, LiveQuery<never>>()
  readonly #answers = new Map<number, Answer>()
  /** Queries that are being opened, by the request's id. */
  readonly #opening = new Map<number, LiveQuery<never>>()
  readonly #end = new AbortController()
  #socket: Socket | undefined
  #nextId = 1
  #running: Promise<void> | undefined

  constructor(http: Http, construct?: SocketConstructor) {
    const found = construct ?? (globalThis as unknown as { WebSocket?: SocketConstructor }).WebSocket
    if (found === undefined) throw new TypeError('there is no WebSocket here: give one, e.g. that of the ws package')
    this.#http = http
    this.#construct = found
  }

  /** Keeps the result of `sql`. */
  query<T = Row>(sql: string, params: readonly unknown[] = []): LiveQuery<T> {
    if (this.#end.signal.aborted) throw new TypeError('the connection is closed')
    const query = new LiveQuery<T>(this, sql, params)
    this.#queries.add(query as unknown as LiveQuery<never>)
    if (this.#socket !== undefined) this.#register(query as unknown as LiveQuery<never>)
    this.#running ??= this.#run()
    return query
  }

  /** Ends all queries and the connection. */
  close(): void {
    this.#end.abort()
    for (const query of [...this.#queries]) query.close()
    this.#socket?.close()
  }

  /** @internal */
  forget(query: LiveQuery<never>): void {
    if (!this.#queries.delete(query)) return
    const id = query.liveId
    if (id === undefined) return
    this.#byId.delete(id)
    if (this.#socket) this.#call('cancel', { live_id: id }).catch(() => undefined)
  }

  async #run(): Promise<void> {
    const backoff = new Backoff()
    while (!this.#end.signal.aborted) {
      try {
        await this.#connectOnce(() => backoff.reset())
      } catch (error) {
        // Refused for good (no such user, no right): the queries are told. The network is tried again.
        if (error instanceof SpringheadError && !error.isTransient) {
          for (const query of [...this.#queries]) this.#fail(query, error)
          this.#running = undefined
          return
        }
      }
      await pause(backoff.nextMs(), this.#end.signal)
    }
  }

  /** Connects, and returns when the connection is gone. */
  async #connectOnce(connected: () => void): Promise<void> {
    const url = this.#http.address('/ws')
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:'
    if ((await this.#http.token()) !== undefined) url.searchParams.set('ticket', await this.#http.ticket('/ws'))
    const socket = new this.#construct(url.href)
    await new Promise<void>((gone) => {
      socket.onopen = () => {
        this.#socket = socket
        connected()
        for (const query of this.#queries) this.#register(query)
      }
      socket.onmessage = ({ data }) => this.#take(JSON.parse(String(data)) as Message)
      socket.onclose = () => gone()
      socket.onerror = () => undefined
      this.#end.signal.addEventListener('abort', () => socket.close(), { once: true })
    })
    this.#socket = undefined
    this.#byId.clear()
    for (const { reject } of this.#answers.values()) reject(new Error('the connection is gone'))
    this.#answers.clear()
    this.#opening.clear()
    for (const query of this.#queries) {
      query.liveId = undefined
      query.setConnected(false)
    }
  }

  #call(method: string, params: unknown): Promise<unknown> {
    const id = this.#nextId++
    const answer = new Promise((resolve, reject) => this.#answers.set(id, { resolve, reject }))
    this.#socket?.send(JSON.stringify({ jsonrpc: '2.0', id, method, params }))
    return answer
  }

  #register(query: LiveQuery<never>): void {
    const cursor = query.result.resumable
    if (cursor === undefined) query.result.clear()
    const params = { sql: query.sql, params: query.params, ...(cursor === undefined ? {} : { cursor }) }
    this.#call('live', params).then(
      (result) => {
        const id = (result as { live_id: number }).live_id
        if (!this.#queries.has(query)) {
          this.#call('cancel', { live_id: id }).catch(() => undefined)
          return
        }
        query.setConnected(true)
      },
      (error: Error) => {
        if (!(error instanceof SpringheadError)) return
        if (error.code === 'cursor_expired') this.#again(query)
        else this.#fail(query, error)
      },
    )
    // Notifications may follow the answer at once: its id must be known before the promise's turn.
    this.#opening.set(this.#nextId - 1, query)
  }

  #take(message: Message): void {
    if (message.id !== undefined) return this.#takeAnswer(message.id, message)
    const params = message.params ?? {}
    if (message.method === 'tick') {
      for (const query of this.#queries) query.publish()
      return
    }
    const query = params.live_id === undefined ? undefined : this.#byId.get(params.live_id)
    if (query === undefined) return
    switch (message.method) {
      case 'live.snapshot':
        query.result.snapshot(params as unknown as Snapshot)
        return
      case 'live.ready':
        query.result.setReady(params as unknown as { cursor: string })
        query.changed = true
        query.publish()
        return
      case 'live.change':
        query.result.apply(params as unknown as Delta)
        query.changed = true
        return
      case 'live.progress':
        query.result.progress(params as unknown as { cursor: string })
        return
      case 'live.must-refetch':
        this.#again(query)
        return
      case 'live.error':
        this.#fail(query, new SpringheadError(params as unknown as ErrorBody))
    }
  }

  #takeAnswer(id: number, message: Message): void {
    const answer = this.#answers.get(id)
    this.#answers.delete(id)
    const query = this.#opening.get(id)
    this.#opening.delete(id)
    if (message.error) {
      const { data, message: text } = message.error
      answer?.reject(new SpringheadError(data ?? { code: 'refused', message: text }))
      return
    }
    const liveId = (message.result as { live_id?: number } | undefined)?.live_id
    if (query && liveId !== undefined) {
      query.liveId = liveId
      this.#byId.set(liveId, query)
    }
    answer?.resolve(message.result)
  }

  /** The query's cursor is of no use any more: from the beginning. */
  #again(query: LiveQuery<never>): void {
    if (query.liveId !== undefined) this.#byId.delete(query.liveId)
    query.liveId = undefined
    query.result.forget()
    if (this.#queries.has(query) && this.#socket) this.#register(query)
  }

  #fail(query: LiveQuery<never>, error: SpringheadError): void {
    if (query.liveId !== undefined) this.#byId.delete(query.liveId)
    this.#queries.delete(query)
    query.end(error)
  }
}
