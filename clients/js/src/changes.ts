/**
 * The change feed: every committed change, in order, once, over restarts of the server and gaps of
 * the network. Reads `/cdc` with `fetch`; keeps its place by cursor.
 */

import { Backoff, pause } from './backoff.js'
import { RefetchError, SpringheadError, type ErrorBody } from './errors.js'
import type { Http, Row } from './http.js'
import { events, type ServerSentEvent } from './sse.js'

export type Operation = 'INSERT' | 'UPDATE' | 'DELETE' | 'TRUNCATE' | 'DEFINITION' | 'MESSAGE' | 'READ'

/** One change, as the server sends it. */
export interface Change<T = Row> {
  lsn: number
  cursor: string
  timestamp_ms: number
  tenant_id: number
  collection: string | null
  operation: Operation
  document_id: string | null
  before: T | null
  after: T | null
  /** Its transaction's first LSN, its place there from 0, and how many changes that has. */
  tx: { lsn: number; index: number; count: number } | null
  schema_version: number
}

/** What a feed yields. */
export type FeedEvent<T = Row> =
  /** A snapshot begins, at first or again: forget the rows that came before. */
  | { kind: 'reset' }
  /** A row of the snapshot. */
  | { kind: 'row'; change: Change<T> }
  /** The snapshot is whole; from here on every change comes. */
  | { kind: 'ready'; cursor: string; lsn: number }
  | { kind: 'change'; change: Change<T> }

export interface ChangesOptions {
  /** Go on after this cursor. */
  cursor?: string
  /** This LSN and later. */
  sinceLsn?: number
  /** This time (milliseconds since 1970) and later. */
  sinceMs?: number
  /** Current rows first. */
  snapshot?: boolean
  /** One SQL condition on the row. */
  where?: string
  columns?: string[]
  operations?: ('insert' | 'update' | 'delete' | 'truncate')[]
  /** Start where this consumer group has committed. */
  consumer?: string
  /** When the cursor is too old: end with `RefetchError` (default), or take a new snapshot. */
  onRefetch?: 'throw' | 'snapshot'
  signal?: AbortSignal
}

/** A feed of one collection, or of all of them. Iterate it once. */
export class ChangeFeed<T = Row> implements AsyncIterable<FeedEvent<T>> {
  readonly #http: Http
  readonly #path: string
  readonly #options: ChangesOptions
  readonly #end = new AbortController()
  #cursor: string | undefined
  #wantsSnapshot: boolean
  /** Rows of a snapshot have come and its `ready` has not. */
  #inSnapshot = false

  constructor(http: Http, collection: string | undefined, options: ChangesOptions = {}) {
    this.#http = http
    this.#path = collection === undefined ? '/cdc' : `/cdc/${encodeURIComponent(collection)}`
    this.#options = options
    this.#cursor = options.cursor
    this.#wantsSnapshot = options.snapshot ?? false
    const signal = options.signal
    if (signal?.aborted) this.#end.abort()
    signal?.addEventListener('abort', () => this.#end.abort(), { once: true })
  }

  /** Everything up to here has been yielded: what to start from another time. */
  get cursor(): string | undefined {
    return this.#cursor
  }

  close(): void {
    this.#end.abort()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<FeedEvent<T>, void, void> {
    const backoff = new Backoff()
    let leastMs = 0
    try {
      while (!this.#end.signal.aborted) {
        try {
          const answer = await this.#open()
          for await (const event of events(answer)) {
            leastMs = event.retryMs ?? leastMs
            if (event.data === '') continue
            backoff.reset()
            yield* this.#take(event)
          }
        } catch (error) {
          if (!(error instanceof SpringheadError)) {
            // The network: try again from the cursor.
          } else if (error instanceof RefetchError && this.#options.onRefetch === 'snapshot') {
            this.#cursor = undefined
            this.#wantsSnapshot = true
            continue
          } else if (!error.isTransient) {
            throw error
          }
        }
        await pause(backoff.nextMs(leastMs), this.#end.signal)
      }
    } finally {
      this.close()
    }
  }

  async #open(): Promise<ReadableStream<Uint8Array>> {
    const { sinceLsn, sinceMs, where, columns, operations, consumer } = this.#options
    this.#inSnapshot = false
    if (this.#startsNow()) this.#cursor = await this.#now()
    const fresh = this.#cursor === undefined
    const url = this.#http.address(this.#path, {
      since_lsn: fresh ? sinceLsn : undefined,
      since_ms: fresh ? sinceMs : undefined,
      snapshot: fresh && this.#wantsSnapshot ? true : undefined,
      where,
      columns: columns?.join(','),
      operations: operations?.join(','),
      consumer,
    })
    const headers: Record<string, string> = { accept: 'text/event-stream' }
    if (this.#cursor !== undefined) headers['last-event-id'] = this.#cursor
    const answer = await this.#http.request(url, { headers, signal: this.#end.signal, cache: 'no-store' })
    if (answer.body === null) throw new TypeError('the answer has no body')
    return answer.body
  }

  /** Whether nothing says where to start. */
  #startsNow(): boolean {
    const { sinceLsn, sinceMs, consumer } = this.#options
    const given = this.#cursor ?? sinceLsn ?? sinceMs ?? consumer
    return given === undefined && !this.#wantsSnapshot
  }

  /** The cursor of now: a connection that breaks before its first event must not lose what comes between. */
  async #now(): Promise<string> {
    const url = this.#http.address(`${this.#path}/poll`, { since_ms: Number.MAX_SAFE_INTEGER, limit: 1 })
    const answer = await this.#http.request(url, { signal: this.#end.signal })
    return ((await answer.json()) as { next_cursor: { cursor: string } }).next_cursor.cursor
  }

  *#take(event: ServerSentEvent): Generator<FeedEvent<T>> {
    const data = JSON.parse(event.data) as unknown
    switch (event.event) {
      case 'snapshot':
        if (!this.#inSnapshot) {
          this.#inSnapshot = true
          yield { kind: 'reset' }
        }
        yield { kind: 'row', change: data as Change<T> }
        return
      case 'ready': {
        if (!this.#inSnapshot) yield { kind: 'reset' }
        this.#inSnapshot = false
        const ready = data as { cursor: string; lsn: number }
        this.#cursor = ready.cursor
        yield { kind: 'ready', cursor: ready.cursor, lsn: ready.lsn }
        return
      }
      case 'progress':
        this.#cursor = (data as { cursor: string }).cursor
        return
      case 'must-refetch':
        throw new RefetchError(data as ErrorBody)
      case 'taken-over':
      case 'error':
        throw new SpringheadError(data as ErrorBody)
      case 'insert':
      case 'update':
      case 'delete':
      case 'truncate':
      case 'definition':
      case 'message': {
        const change = data as Change<T>
        this.#cursor = change.cursor
        yield { kind: 'change', change }
      }
    }
  }
}
