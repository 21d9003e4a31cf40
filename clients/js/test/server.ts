/** The real server as a child process: free loopback ports, one directory, killed and started again. */

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export const BINARY = process.env['SPRINGHEAD_BIN']

export class Server {
  #child: ChildProcess | undefined
  #output = ''

  private constructor(
    readonly directory: string,
    readonly pg: number,
    readonly http: number,
    readonly args: readonly string[],
  ) {}

  static async start(...args: string[]): Promise<Server> {
    const directory = await mkdtemp(join(tmpdir(), 'springhead-js-'))
    const server = new Server(directory, await freePort(), await freePort(), args)
    await server.run()
    return server
  }

  get url(): string {
    return `http://127.0.0.1:${this.http}`
  }

  /** Starts it again where it was. */
  async run(): Promise<void> {
    if (BINARY === undefined) throw new Error('SPRINGHEAD_BIN must name the server')
    const ports = ['--pg', `127.0.0.1:${this.pg}`, '--http', `127.0.0.1:${this.http}`]
    const child = spawn(BINARY, ['serve', '--data-dir', join(this.directory, 'data'), ...ports, ...this.args])
    child.stdout.on('data', (data: Buffer) => (this.#output = (this.#output + String(data)).slice(-20_000)))
    child.stderr.on('data', (data: Buffer) => (this.#output = (this.#output + String(data)).slice(-20_000)))
    this.#child = child
    for (let tries = 0; tries < 3000; tries++) {
      if (child.exitCode !== null) throw new Error(`the server ended by itself:\n${this.#output}`)
      if (await fetch(`${this.url}/readyz`).then((answer) => answer.ok, () => false)) return
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    throw new Error(`the server was not ready in time:\n${this.#output}`)
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill(signal)
    await ended
  }

  async remove(): Promise<void> {
    await this.kill()
    await rm(this.directory, { recursive: true, force: true })
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as AddressInfo
  probe.close()
  await once(probe, 'close')
  return port
}
