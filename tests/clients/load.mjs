// Writers over the PostgreSQL protocol, by the npm package `pg`, that note what was acknowledged.

import pg from 'pg'

export class Writers {
  constructor(server, count) {
    this.server = server
    this.acknowledged = []
    this.unknown = []
    this.stopped = false
    this.waiting = []
    this.done = Promise.all(Array.from({ length: count }, (_, writer) => this.write(writer)))
  }

  // Resolves when `more` further rows have been acknowledged.
  async progress(more) {
    const target = this.acknowledged.length + more
    while (this.acknowledged.length < target) {
      await new Promise((resolve) => this.waiting.push(resolve))
    }
  }

  async stop() {
    this.stopped = true
    await this.done
  }

  async write(writer) {
    let seq = 0
    while (!this.stopped) {
      const client = new pg.Client({
        host: '127.0.0.1', port: this.server.pg, user: 'tester', database: 'postgres',
      })
      client.on('error', () => {})
      try {
        await client.connect()
      } catch {
        // Down: the next try is a moment away, since a refused connection comes back at once.
        await new Promise((resolve) => setTimeout(resolve, 5))
        continue
      }
      while (!this.stopped) {
        const id = `${writer}-${seq++}`
        try {
          await client.query(`INSERT INTO orders VALUES ('${id}', ${writer}, ${seq})`)
          this.acknowledged.push(id)
          this.waiting.splice(0).forEach((resolve) => resolve())
        } catch (error) {
          // A refusal by the server is a bug; a broken connection leaves the row unknown.
          if (error.code && /^[0-9A-Z]{5}$/.test(error.code) && error.code !== '57P01') this.refused = error
          this.unknown.push(id)
          break
        }
      }
      await client.end().catch(() => {})
    }
  }
}
