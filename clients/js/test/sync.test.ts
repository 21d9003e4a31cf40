/** Devices and the real server: what is written without a network comes together, and nothing is lost. */

import { createHmac, randomBytes, randomUUID } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import { WebSocket } from 'ws'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { Client } from '../src/client.js'
import type { SocketConstructor } from '../src/live.js'
import { Device, type DeviceOptions } from '../src/sync/device.js'
import { MemoryStore } from '../src/sync/store.js'
import { violationText } from '../src/sync/violation.js'
import { Proxy } from './proxy.js'
import { BINARY, Server } from './server.js'

interface Todo {
  id: string
  title: string
  votes: number
  done: boolean
  tags: unknown
}

const webSocket = WebSocket as unknown as SocketConstructor
const settled = { timeout: 15_000, interval: 10 }

describe.skipIf(BINARY === undefined)('devices and the server', () => {
  let server: Server
  let client: Client
  const open: { close(): unknown }[] = []

  beforeAll(async () => {
    server = await Server.start()
    client = new Client({ url: server.url, webSocket })
  }, 60_000)

  afterEach(async () => {
    for (const one of open.splice(0)) await one.close()
  })

  afterAll(() => server.remove())

  /** A collection of its own for a test. */
  async function collection(): Promise<string> {
    const name = `todos_${randomUUID().slice(0, 8)}`
    await client.sql(
      `CREATE TABLE ${name} (id TEXT PRIMARY KEY, title TEXT UNIQUE, votes INTEGER DEFAULT 0 CHECK (votes >= 0), done BOOLEAN DEFAULT false, tags JSONB)`,
    )
    return name
  }

  async function device(options: Partial<DeviceOptions> = {}): Promise<Device> {
    const opened = await Device.open({ name: 'test', store: new MemoryStore(), webSocket, ...options })
    open.push(opened)
    return opened
  }

  async function rows(name: string): Promise<unknown[]> {
    const { columns, rows } = await client.sql(`SELECT * FROM ${name} ORDER BY id`)
    return rows.map((row) => Object.fromEntries(columns.map((column, at) => [column.name, row[at]])))
  }

  const isQuiet = (one: Device): Promise<unknown> => one.when(({ live, pending }) => live && pending === 0)

  /** Until every device shows what the server has. */
  async function converged(name: string, ...devices: Device[]): Promise<unknown[]> {
    for (const one of devices) await isQuiet(one)
    let truth: unknown[] = []
    const differs = async (): Promise<unknown> => {
      truth = await rows(name)
      return devices.map((one) => one.collection(name).query()).find((seen) => !isDeepStrictEqual(seen, truth))
    }
    await expect.poll(differs, settled).toBeUndefined()
    return truth
  }

  test('g9_offline_edits_of_two_devices_converge_column_by_column', async () => {
    const name = await collection()
    await client.sql(`INSERT INTO ${name} (id, title) VALUES ('a', 'milk')`)
    const [ann, bob] = [await device(), await device()]
    for (const one of [ann, bob]) {
      await one.subscribe(name)
      one.connect({ url: server.url })
      await isQuiet(one)
      one.disconnect()
    }
    await ann.collection<Todo>(name).patch('a', { title: 'oat milk' })
    await ann.collection<Todo>(name).inc('a', { votes: 2 })
    await bob.collection<Todo>(name).patch('a', { done: true })
    await bob.collection<Todo>(name).inc('a', { votes: 3 })
    await bob.collection<Todo>(name).put({ id: 'b', title: 'bread' })
    for (const one of [ann, bob]) one.connect({ url: server.url })
    const truth = await converged(name, ann, bob)
    expect(truth).toEqual([
      { id: 'a', title: 'oat milk', votes: 5, done: true, tags: null },
      { id: 'b', title: 'bread', votes: 0, done: false, tags: null },
    ])
  })

  /** A device that holds the whole collection, connected. */
  async function holding(name: string, options: Partial<DeviceOptions> = {}): Promise<Device> {
    const one = await device({ url: server.url, ...options })
    await one.subscribe(name)
    await isQuiet(one)
    return one
  }

  test('g9_a_rejected_update_shows_the_servers_row_again_and_the_hints_fix_commits', async () => {
    const name = await collection()
    await client.sql(`INSERT INTO ${name} (id, title, votes, tags) VALUES ('a', 'milk', 7, '{"k": [1]}'), ('b', 'bread', 0, NULL)`)
    const ann = await holding(name)
    const todos = ann.collection<Todo>(name)
    const before = todos.get('b')
    ann.disconnect()
    await todos.patch('b', { title: 'milk', votes: 3 })
    await todos.patch('a', { done: true })
    await todos.patch('a', { votes: -1 })
    expect(todos.get('b')).toEqual({ ...before, title: 'milk', votes: 3 })
    ann.connect({ url: server.url })
    await isQuiet(ann)
    expect(todos.get('b')).toEqual(before)
    expect(todos.get('a')).toEqual({ id: 'a', title: 'milk', votes: 7, done: true, tags: { k: [1] } })
    const [unique, check] = ann.rejections()
    expect(unique && violationText(unique.violation)).toBe('unique:title=milk')
    expect(check && violationText(check.violation)).toMatch(/^check:/)
    const fix = unique?.hint.fixes?.[0]
    expect(fix).toMatchObject({ fix: 'set_column', column: 'title' })
    await ann.retry(unique?.id ?? '', fix)
    await ann.acknowledge(check?.id ?? '')
    const truth = await converged(name, ann)
    expect(truth).toContainEqual({ ...before, title: (fix as { value: string }).value, votes: 3 })
    expect(ann.rejections()).toEqual([])
    const letters = await client.sql('SELECT violation_type FROM springhead.dead_letters WHERE collection = $1', [name])
    expect(letters.rows.length).toBe(2)
  })

  test('g9_what_depends_on_a_rejected_insert_is_rejected_with_it', async () => {
    const name = await collection()
    await client.sql(`INSERT INTO ${name} (id, title) VALUES ('a', 'milk')`)
    const ann = await holding(name)
    ann.disconnect()
    const todos = ann.collection<Todo>(name)
    await todos.put({ id: 'b', title: 'milk' })
    await todos.inc('b', { votes: 1 })
    await todos.put({ id: 'c', title: 'tea' })
    ann.connect({ url: server.url })
    await converged(name, ann)
    expect(todos.query().map(({ id }) => id)).toEqual(['a', 'c'])
    const [head, dependent] = ann.rejections()
    expect(dependent?.chain).toBe(head?.deadLetterId)
    expect(dependent && violationText(dependent.violation)).toBe('constraint:depends on a rejected mutation')
  })

  test('g6_rows_come_and_go_with_the_shapes_that_hold_them', async () => {
    const name = await collection()
    await client.sql(`INSERT INTO ${name} (id, title, votes) VALUES ('a', 'milk', 1), ('b', 'bread', 9)`)
    const ann = await device({ url: server.url })
    const many = await ann.subscribe(name, { where: 'votes > $1', params: [5] })
    await isQuiet(ann)
    const todos = ann.collection<Todo>(name)
    expect(todos.query().map(({ id }) => id)).toEqual(['b'])
    await client.sql(`UPDATE ${name} SET votes = 10 - votes`)
    await expect.poll(() => todos.query().map(({ id }) => id), settled).toEqual(['a'])
    const all = await ann.subscribe(name)
    await isQuiet(ann)
    expect(todos.query()).toHaveLength(2)
    await ann.unsubscribe(all)
    expect(todos.query().map(({ id }) => id)).toEqual(['a'])
    await ann.unsubscribe(many)
    expect(todos.query()).toEqual([])
    const bad = await ann.subscribe(name, { where: 'no_such_column = 1' })
    await ann.when(({ error }) => error !== undefined)
    expect(ann.replica.shapes.has(bad)).toBe(false)
    expect(ann.status.state).toBe('online')
  })

  test('g9_definitions_follow_the_server_and_hash_to_the_same', async () => {
    const name = await collection()
    const ann = await holding(name)
    expect(ann.replica.table(name)?.key).toEqual(['id'])
    await client.sql(`ALTER TABLE ${name} ADD COLUMN list INTEGER[]`)
    await client.sql(`INSERT INTO ${name} (id, title, list) VALUES ('a', 'milk', '{1,2}')`)
    await expect.poll(() => ann.collection(name).get('a'), settled).toMatchObject({ list: [1, 2] })
    await ann.collection<{ id: string; list: number[] }>(name).add('a', { list: [2, 3] })
    await converged(name, ann)
    expect(ann.collection(name).get('a')).toMatchObject({ list: [1, 2, 3] })
    // A server that finds the hash that it has itself sends no definitions.
    const bob = await holding(name)
    expect(bob.replica.meta.catalogHash).toBe(ann.replica.meta.catalogHash)
  })

  test('g9_a_copied_device_gets_a_producer_of_its_own_and_loses_nothing', async () => {
    const name = await collection()
    await client.sql(`INSERT INTO ${name} (id, title) VALUES ('a', 'milk')`)
    const store = new MemoryStore()
    const ann = await holding(name, { store })
    await ann.collection<Todo>(name).inc('a', { votes: 1 })
    await isQuiet(ann)
    const copied = new MemoryStore()
    const entries = await store.load()
    await copied.change([], () => ({ put: entries, remove: [] }))
    await ann.collection<Todo>(name).put({ id: 'b', title: 'of the first' })
    await isQuiet(ann)
    await ann.close()
    const copy = await device({ store: copied })
    await copy.collection<Todo>(name).inc('a', { votes: 10 })
    await copy.collection<Todo>(name).put({ id: 'c', title: 'of the copy' })
    copy.connect({ url: server.url })
    const truth = await converged(name, copy)
    expect(truth).toMatchObject([{ id: 'a', votes: 11 }, { id: 'b' }, { id: 'c', title: 'of the copy' }])
    expect(copy.replica.meta.producer).not.toEqual(ann.replica.meta.producer)
    expect(copy.rejections()).toEqual([])
  })

  test('g9_a_server_killed_while_devices_push_decides_each_mutation_once', async () => {
    const name = await collection()
    await client.sql(`INSERT INTO ${name} (id, title) VALUES ('a', 'counter'), ('b', 'taken')`)
    const devices = await Promise.all([1, 2, 3].map(() => holding(name)))
    const made = { counted: 0, rejected: 0 }
    for (let kill = 0; kill < 4; kill++) {
      const writing = devices.map(async (one, at) => {
        for (let n = 0; n < 25; n++) {
          await one.collection<Todo>(name).inc('a', { votes: 1 })
          made.counted += 1
          if (n % 10 !== at) continue
          await one.collection<Todo>(name).put({ id: `${kill}-${at}-${n}`, title: 'taken' })
          made.rejected += 1
        }
      })
      await devices[kill % 3]?.when(({ pending }) => pending > 3)
      await server.kill()
      await server.run()
      await Promise.all(writing)
    }
    const truth = await converged(name, ...devices)
    expect(truth).toMatchObject([{ id: 'a', votes: made.counted }, { id: 'b' }])
    expect(devices.flatMap((one) => one.rejections()).length).toBe(made.rejected)
    const letters = await client.sql('SELECT count(*) FROM springhead.dead_letters WHERE collection = $1', [name])
    expect(letters.rows[0]?.[0]).toBe(made.rejected)
  }, 60_000)

  test('g9_connections_cut_in_the_middle_cost_nothing', async () => {
    const name = await collection()
    const values = Array.from({ length: 3000 }, (_, n) => `('r${String(n).padStart(5, '0')}', 'title ${n}')`)
    await client.sql(`INSERT INTO ${name} (id, title) VALUES ${values.join(',')}, ('a', 'counter')`)
    const proxy = await Proxy.start(server.http)
    open.push(proxy)
    const ann = await device({ url: proxy.url })
    const held = (): number => ann.collection(name).query().length
    await ann.subscribe(name)
    let counted = 0
    for (let cut = 0; cut < 6; cut++) {
      await ann.when(({ state }) => state === 'online')
      for (let n = 0; n < 10; n++, counted++) await ann.collection<Todo>(name).inc('a', { votes: 1 })
      proxy.cut()
    }
    await converged(name, ann)
    expect(held()).toBe(3001)
    expect(ann.collection<Todo>(name).get('a')?.votes).toBe(counted)
  }, 60_000)

  test('g9_devices_with_random_edits_and_absences_end_as_the_server', async () => {
    const id = fc.constantFrom('a', 'b', 'c', 'd')
    const title = fc.constantFrom('milk', 'bread', 'tea', 'rice', 'salt')
    const step = fc.tuple(fc.nat(2), id, fc.oneof(
      { weight: 3, arbitrary: fc.record({ put: title }) },
      { weight: 2, arbitrary: fc.record({ title }) },
      { weight: 3, arbitrary: fc.record({ votes: fc.integer({ min: -3, max: 5 }) }) },
      { weight: 2, arbitrary: fc.record({ tag: fc.constantFrom('x', 'y') }) },
      { weight: 1, arbitrary: fc.constant({ gone: true as const }) },
      { weight: 2, arbitrary: fc.constantFrom({ online: true }, { online: false }) },
    ))
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 40 }), async (steps) => {
        const name = await collection()
        const devices = await Promise.all([0, 1, 2].map(() => holding(name)))
        for (const [at, key, act] of steps) {
          const one = devices[at] as Device
          const todos = one.collection<Todo>(name)
          if ('online' in act) {
            if (act.online) one.connect({ url: server.url })
            else one.disconnect()
          } else if ('put' in act) await todos.put({ id: key, title: act.put })
          else if ('title' in act) await todos.patch(key, { title: act.title })
          else if ('votes' in act) await todos.inc(key, { votes: act.votes })
          else if ('tag' in act) await todos.add(key, { tags: [act.tag] })
          else await todos.delete(key)
        }
        for (const one of devices) if (one.status.state === 'alone') one.connect({ url: server.url })
        await converged(name, ...devices)
        const made = steps.filter(([, , act]) => !('online' in act)).length
        const applied = devices.map((one) => one.replica.meta.nextSeq - 1 - one.rejections().length)
        expect(applied.reduce((sum, count) => sum + count, 0)).toBeLessThanOrEqual(made)
        await Promise.all(devices.map((one) => one.close()))
        await client.sql(`DROP TABLE ${name}`)
      }),
      { numRuns: Number(process.env['SPRINGHEAD_SEEDS'] ?? 25) },
    )
  }, 600_000)
})

describe.skipIf(BINARY === undefined)('devices and a server with limits and tokens', () => {
  test('g9_a_device_that_is_told_to_wait_waits_and_loses_nothing', async () => {
    const server = await Server.start('--sync-mutations-per-s', '40')
    const client = new Client({ url: server.url })
    await client.sql('CREATE TABLE counters (id TEXT PRIMARY KEY, n INTEGER)')
    await client.sql("INSERT INTO counters VALUES ('a', 0)")
    const one = await Device.open({ name: 'throttled', store: new MemoryStore(), webSocket, url: server.url })
    const waits = new Set<number>()
    one.onStatus(({ throttledUntilMs }) => throttledUntilMs !== undefined && waits.add(throttledUntilMs))
    for (let n = 0; n < 160; n++) await one.collection('counters').inc('a', { n: 1 })
    await one.when(({ pending }) => pending === 0)
    expect(waits.size).toBeGreaterThan(0)
    expect((await client.sql('SELECT n FROM counters')).rows).toEqual([[160]])
    await one.close()
    await server.remove()
  })

  test('g9_a_session_outlives_its_tokens_while_there_are_new_ones', async () => {
    const secret = randomBytes(32).toString('hex')
    const directory = await mkdtemp(join(tmpdir(), 'springhead-jwt-'))
    await writeFile(join(directory, 'secret'), secret)
    const server = await Server.start('--jwt-secret-file', join(directory, 'secret'), '--jwt-leeway', '0s')
    const client = new Client({ url: server.url })
    await client.sql('CREATE TABLE counters (id TEXT PRIMARY KEY, n INTEGER)')
    await client.sql("INSERT INTO counters VALUES ('a', 0)")
    await client.sql('CREATE ROLE app')
    await client.sql('GRANT SELECT, UPDATE ON counters TO app')
    let made = 0
    let mayLogIn = true
    const token = (): string => {
      made += 1
      const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')
      const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ role: 'app', sub: 'ann', exp: Math.floor(Date.now() / 1000) + 3 })}`
      const signature = createHmac('sha256', mayLogIn ? secret : 'another').update(body).digest('base64url')
      return `${body}.${signature}`
    }
    const one = await Device.open({ name: 'tokens', store: new MemoryStore(), webSocket, url: server.url, token })
    const states = new Set<string>()
    await one.subscribe('counters')
    await one.when(({ live }) => live)
    one.onStatus(({ state }) => states.add(state))
    await expect.poll(() => made, { timeout: 15_000, interval: 50 }).toBeGreaterThan(5)
    await one.collection('counters').inc('a', { n: 1 })
    await one.when(({ pending, live }) => live && pending === 0)
    expect([...states]).toEqual(['online'])
    expect((await client.sql('SELECT n FROM counters')).rows).toEqual([[1]])
    mayLogIn = false
    const { error } = await one.when(({ state }) => state === 'refused')
    expect(['token_expired', 'unauthenticated']).toContain(error?.code)
    await one.collection('counters').inc('a', { n: 1 })
    expect(one.status.pending).toBe(1)
    await one.close()
    await server.remove()
    await rm(directory, { recursive: true })
  }, 40_000)
})
