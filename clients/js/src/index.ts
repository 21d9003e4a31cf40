/** Springhead from TypeScript: statements, change feeds, live queries. */

export { Client, type ClientOptions } from './client.js'
export { ChangeFeed, type Change, type ChangesOptions, type FeedEvent, type Operation } from './changes.js'
export { RefetchError, SpringheadError, type ErrorBody } from './errors.js'
export { Http, type ConnectionOptions, type Row, type SqlResult, type TokenSource } from './http.js'
export { LiveConnection, LiveQuery, type LiveState, type Socket, type SocketConstructor } from './live.js'
