/** One server, and everything that can be asked of it. */

import { ChangeFeed, type ChangesOptions } from './changes.js'
import { Http, type ConnectionOptions, type Row, type SqlResult } from './http.js'
import { LiveConnection, type LiveQuery, type SocketConstructor } from './live.js'

export interface ClientOptions extends ConnectionOptions {
  /** The WebSocket to use where there is none, as in Node 20. */
  webSocket?: SocketConstructor
}

export class Client {
  readonly http: Http
  readonly #webSocket: SocketConstructor | undefined
  #live: LiveConnection | undefined

  constructor(options: ClientOptions = {}) {
    this.http = new Http(options)
    this.#webSocket = options.webSocket
  }

  /** Runs one statement: `client.sql('SELECT * FROM orders WHERE id = $1', ['o1'])`. */
  sql(sql: string, params: unknown[] = []): Promise<SqlResult> {
    return this.http.sql(sql, params)
  }

  /** Every change of `collection`, or of all with `undefined`, from where `options` say. */
  changes<T = Row>(collection: string | undefined, options: ChangesOptions = {}): ChangeFeed<T> {
    return new ChangeFeed<T>(this.http, collection, options)
  }

  /** Keeps the result of a SELECT; all live queries of a client share one connection. */
  live<T = Row>(sql: string, params: readonly unknown[] = []): LiveQuery<T> {
    this.#live ??= new LiveConnection(this.http, this.#webSocket)
    return this.#live.query<T>(sql, params)
  }

  /** Ends the live queries and their connection. Feeds are closed by themselves. */
  close(): void {
    this.#live?.close()
    this.#live = undefined
  }
}
