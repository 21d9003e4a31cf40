/** A TCP proxy between a device and a server, to cut connections and to stall them. */

import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'

export class Proxy {
  readonly #sockets = new Set<Socket>()

  private constructor(
    readonly port: number,
    private readonly server: Server,
  ) {}

  static async start(to: number): Promise<Proxy> {
    const server = createServer()
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const proxy = new Proxy((server.address() as AddressInfo).port, server)
    server.on('connection', (socket) => proxy.#join(socket, connect(to, '127.0.0.1')))
    return proxy
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  #join(inner: Socket, outer: Socket): void {
    for (const [from, into] of [[inner, outer], [outer, inner]] as const) {
      this.#sockets.add(from)
      from.on('error', () => into.destroy())
      from.on('close', () => {
        this.#sockets.delete(from)
        into.destroy()
      })
      from.pipe(into)
    }
  }

  /** Cuts every connection, in the middle of whatever it is doing. */
  cut(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy()
  }

  async close(): Promise<void> {
    this.cut()
    this.server.close()
    await once(this.server, 'close')
  }
}
