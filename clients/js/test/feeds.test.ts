import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import WebSocket from 'ws'
import { Client, RefetchError, SpringheadError, type FeedEvent, type SocketConstructor } from '../src/index.js'
import { BINARY, Server } from './server.js'

const webSocket = WebSocket as unknown as SocketConstructor

describe.skipIf(BINARY === undefined)('against the server', () => {
  let server: Server
  let client: Client

  beforeAll(async () => {
    server = await Server.start()
    client = new Client({ url: server.url, webSocket })
    await client.sql('CREATE TABLE orders (id integer PRIMARY KEY, status text NOT NULL)')
  })

  afterAll(async () => {
    client.close()
    await server.remove()
  })

  /** Inserts until it is acknowledged; a row that is there already was, unheard. */
  async function insert(id: number): Promise<void> {
    for (;;) {
      try {
        await client.sql("INSERT INTO orders VALUES ($1, 'new') ON CONFLICT DO NOTHING", [id])
        return
      } catch (error) {
        if (error instanceof SpringheadError && !error.isTransient) throw error
      }
    }
  }

  test('g4_g2_a_feed_goes_from_a_snapshot_over_kills_without_gap_or_repeat', async () => {
    await client.sql('DELETE FROM orders')
    for (let id = 1; id <= 5; id++) await insert(id)
    const feed = client.changes<{ id: number }>('orders', { snapshot: true, operations: ['insert'] })
    const seen: FeedEvent<{ id: number }>[] = []
    const reading = (async () => {
      for await (const event of feed) {
        seen.push(event)
        if (event.kind === 'change' && event.change.after?.id === 30) return
      }
    })()
    for (let id = 6; id <= 30; id++) {
      if (id % 10 === 0) {
        await server.kill()
        await server.run()
      }
      await insert(id)
    }
    await reading
    const ids = seen.flatMap((event) => ('change' in event ? [event.change.after?.id] : []))
    expect(ids).toEqual(Array.from({ length: 30 }, (_, at) => at + 1))
    expect(seen.filter((event) => event.kind === 'ready')).toHaveLength(1)
  })

  test('g2_a_feed_from_now_loses_nothing_before_its_first_event', async () => {
    const feed = client.changes<{ id: number }>('orders')
    const reading = feed[Symbol.asyncIterator]()
    const first = reading.next()
    while (feed.cursor === undefined) await new Promise((resolve) => setImmediate(resolve))
    await insert(1000)
    const { value } = await first
    expect(value).toMatchObject({ kind: 'change', change: { after: { id: 1000 } } })
    await reading.return()
  })

  test('g5_a_cursor_that_is_none_ends_the_feed_with_its_reason', async () => {
    const feed = client.changes('orders', { cursor: '5@00000000' })
    await expect(feed[Symbol.asyncIterator]().next()).rejects.toThrow(RefetchError)
    const unknown = client.changes('nowhere', { sinceLsn: 1 })
    await expect(unknown[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: 'unknown_collection' })
  })

  test('g8_a_live_query_equals_a_fresh_select_over_a_kill', async () => {
    const query = client.live<{ id: number; status: string }>(
      'SELECT id, status FROM orders WHERE id > $1 ORDER BY id DESC LIMIT 4',
      [0],
    )
    const counts = client.live<{ status: string; n: number }>('SELECT status, count(*) AS n FROM orders GROUP BY status')
    await Promise.all([query.first(), counts.first()])
    for (let id = 2000; id < 2010; id++) {
      await insert(id)
      if (id === 2005) {
        await server.kill()
        await server.run()
      }
    }
    await client.sql("UPDATE orders SET status = 'paid' WHERE id = 2008")
    await client.sql('DELETE FROM orders WHERE id = 2009')
    const fresh = await client.sql('SELECT id, status FROM orders ORDER BY id DESC LIMIT 4')
    const expected = fresh.rows.map(([id, status]) => ({ id, status }))
    await new Promise<void>((resolve) => {
      const stop = query.subscribe(({ rows }) => {
        if (JSON.stringify(rows) !== JSON.stringify(expected)) return
        queueMicrotask(() => stop())
        resolve()
      })
    })
    expect(query.state.rows).toEqual(expected)
    const groups = await client.sql('SELECT status, count(*) AS n FROM orders GROUP BY status')
    await new Promise<void>((resolve) => {
      counts.subscribe(({ rows }) => {
        const now = new Map(rows.map((row) => [row.status, row.n]))
        if (groups.rows.every(([status, n]) => now.get(status as string) === n)) resolve()
      })
    })
    query.close()
    counts.close()
  })

  test('a live query that is refused says why, and the others go on', async () => {
    const good = client.live('SELECT count(*) FROM orders')
    await expect(client.live('SELECT now()').first()).rejects.toThrow(SpringheadError)
    await good.first()
    good.close()
  })
})
