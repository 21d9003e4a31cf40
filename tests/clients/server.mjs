// The real server as a child process, for tests: started on free loopback ports, killed, started
// again on the same ports and directory.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'

const BINARY = process.env.SPRINGHEAD_BIN

export class Server {
  static async create() {
    if (!BINARY) throw new Error('SPRINGHEAD_BIN must name the server; run `cargo xtask test`')
    const server = new Server()
    server.directory = await mkdtemp(join(tmpdir(), 'springhead-clients-'))
    server.pg = await freePort()
    server.http = await freePort()
    server.origin = `http://127.0.0.1:${server.http}`
    server.output = ''
    return server
  }

  async start() {
    const args = ['serve', '--data-dir', join(this.directory, 'data')]
    args.push('--pg', `127.0.0.1:${this.pg}`, '--http', `127.0.0.1:${this.http}`)
    const child = spawn(BINARY, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data) => { this.output = (this.output + data).slice(-20000) })
    }
    this.child = child
    this.ended = once(child, 'exit')
    for (let tries = 0; tries < 3000; tries++) {
      if (child.exitCode !== null) throw new Error(`the server ended by itself:\n${this.output}`)
      const ready = await fetch(`${this.origin}/readyz`).then((answer) => answer.ok, () => false)
      if (ready) return
      await pause(10)
    }
    throw new Error(`the server was not ready in time:\n${this.output}`)
  }

  async kill(signal = 'SIGKILL') {
    this.child.kill(signal)
    const [code] = await this.ended
    return code
  }

  async remove() {
    if (this.child && this.child.exitCode === null) await this.kill()
    await rm(this.directory, { recursive: true, force: true })
  }

  async sql(sql) {
    const answer = await fetch(`${this.origin}/v1/sql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ sql }),
    })
    if (!answer.ok) throw new Error(`${sql}: ${answer.status} ${await answer.text()}`)
    return answer.json()
  }
}

// Below the range that the kernel gives to outgoing connections, so that nobody else gets the port
// while its server is down.
async function freePort() {
  for (;;) {
    const port = 15000 + Math.floor(Math.random() * 6000)
    const probe = createServer()
    const free = await new Promise((done) => {
      probe.once('error', () => done(false))
      probe.listen(port, '127.0.0.1', () => probe.close(() => done(true)))
    })
    if (free) return port
  }
}
