/**
 * Requests to one server (or one of several, of which one takes writes) as whoever the token says.
 */

import { errorOf, SpringheadError } from './errors.js'

/** A token, or a function that gets one whenever it is needed, so that it may be refreshed. */
export type TokenSource = string | (() => string | Promise<string>)

export interface ConnectionOptions {
  /** Where the server is, e.g. `https://db.example.org`; in a page, the page's own origin if left out. */
  url?: string
  /** An API token or a JWT; left out in open mode, or where a cookie says who it is. */
  token?: TokenSource
  /** In open mode only: which tenant. Otherwise the credentials say. */
  tenantId?: number
  /** Another `fetch`, for tests. */
  fetch?: typeof fetch
}

/** One row of a result, by column. */
export type Row = Record<string, unknown>

export interface SqlResult {
  columns: { name: string; type: string }[]
  rows: unknown[][]
  row_count: number
  command: string
  /** The commit's LSN, or the one that was read at. */
  lsn: number
}

export class Http {
  readonly origin: string
  readonly #token: TokenSource | undefined
  readonly #tenantId: number | undefined
  readonly #fetch: typeof fetch

  constructor(options: ConnectionOptions) {
    const page = (globalThis as { location?: { origin?: string } }).location?.origin
    const url = options.url ?? page
    if (url === undefined) throw new TypeError('url is missing: where is the server?')
    this.origin = new URL(url).origin
    this.#token = options.token
    this.#tenantId = options.tenantId
    const given = options.fetch
    this.#fetch = given ?? ((input, init) => globalThis.fetch(input, init))
  }

  /** The token of now, if there is any. */
  async token(): Promise<string | undefined> {
    return typeof this.#token === 'function' ? await this.#token() : this.#token
  }

  /** The address of `path` with `query`'s members that are defined. */
  address(path: string, query: Record<string, string | number | boolean | undefined> = {}): URL {
    const url = new URL(path, this.origin)
    for (const [name, value] of Object.entries({ tenant_id: this.#tenantId, ...query })) {
      if (value !== undefined) url.searchParams.set(name, String(value))
    }
    return url
  }

  /** One request with the token; throws `SpringheadError` unless the answer is a good one. */
  async request(url: URL, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers)
    const token = await this.token()
    if (token !== undefined) headers.set('authorization', `Bearer ${token}`)
    const answer = await this.#fetch(url, { credentials: 'same-origin', ...init, headers })
    if (!answer.ok || answer.status === 204) throw await errorOf(answer)
    return answer
  }

  /** Sends `body` as JSON and reads the answer's. */
  async send<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
    const init: RequestInit = { method }
    if (body !== undefined) {
      init.body = JSON.stringify(body)
      init.headers = { 'content-type': 'application/json' }
    }
    if (signal !== undefined) init.signal = signal
    const answer = await this.request(this.address(path), init)
    try {
      return (await answer.json()) as T
    } catch {
      throw new SpringheadError({ code: 'unexpected_answer', message: `${method} ${path} did not answer with JSON` })
    }
  }

  /** Runs one statement. */
  sql(sql: string, params: unknown[] = [], minLsn?: number): Promise<SqlResult> {
    return this.send('POST', '/v1/sql', { sql, params, ...(minLsn === undefined ? {} : { min_lsn: minLsn }) })
  }

  /** A ticket for one path, for what cannot send headers. */
  async ticket(path: string): Promise<string> {
    return (await this.send<{ ticket: string }>('POST', '/v1/tickets', { path })).ticket
  }
}
