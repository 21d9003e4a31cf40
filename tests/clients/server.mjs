// The real server as a child process, for tests: started on free loopback ports, killed, started
// again on the same ports and directory. `Server.create()` is what a first start is: no users, no TLS,
// whoever comes is let in; `Server.secure()` has both.

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'

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
    server.settings = []
    return server
  }

  // Started, with a certificate for `localhost`, an administrator, and an application's user that may
  // make tables.
  static async secure() {
    const server = await Server.create()
    const place = server.directory
    execFileSync('sh', [fileURLToPath(new URL('certificates.sh', import.meta.url)), place])
    server.ca = await readFile(join(place, 'ca.crt'), 'utf8')
    server.settings = ['--tls-certificate', join(place, 'server.crt'), '--tls-key', join(place, 'server.key')]
    server.settings.push('--tls-required', 'on')
    // Every driver has to normalise it.
    server.password = "pass word: é/@'%"
    await server.start()
    await server.sql("CREATE ROLE root SUPERUSER LOGIN PASSWORD 'rootpass'")
    const root = new pg.Client({ ...server.login(), user: 'root', password: 'rootpass' })
    await root.connect()
    await root.query(`CREATE USER app PASSWORD ${pg.escapeLiteral(server.password)}`)
    await root.query('GRANT CREATE ON SCHEMA public TO app')
    await root.end()
    return server
  }

  // What drivers connect with. Node compares the certificate with the name, too.
  login() {
    const open = { host: '127.0.0.1', port: this.pg, user: 'postgres', database: 'postgres' }
    if (!this.ca) return open
    return { ...open, host: 'localhost', user: 'app', password: this.password, ssl: { ca: this.ca, servername: 'localhost' } }
  }

  async start() {
    const args = ['serve', '--data-dir', join(this.directory, 'data')]
    args.push('--pg', `127.0.0.1:${this.pg}`, '--http', `127.0.0.1:${this.http}`, ...this.settings)
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
export async function freePort() {
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
