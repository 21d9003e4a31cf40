/** Text and lists that merge: the bytes that all languages make, and devices that edit without a network. */

import { readFile } from 'node:fs/promises'
import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { WebSocket } from 'ws'
import * as Y from 'yjs'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { Client } from '../src/client.js'
import { moved, replacement, seedUpdate, sharedList, sharedText } from '../src/crdt.js'
import type { SocketConstructor } from '../src/live.js'
import { blocksOf, received, stateName, withBlock } from '../src/sync/cells.js'
import { Device, type DeviceOptions } from '../src/sync/device.js'
import { MemoryStore } from '../src/sync/store.js'
import { toHex } from '../src/sync/values.js'
import { BINARY, Server } from './server.js'

interface Golden {
  seed: string | unknown[]
  client: number
  insert: string | unknown[]
  update: string
  state: string
}

const GOLDEN = new URL('../../../crates/crdt/tests/golden/cells.json', import.meta.url)
const settled = { timeout: 15_000, interval: 10 }
const webSocket = WebSocket as unknown as SocketConstructor

test('golden_states_are_made_and_read', async () => {
  const golden = JSON.parse(await readFile(GOLDEN, 'utf8')) as Golden[]
  expect(golden.length).toBeGreaterThan(3)
  for (const { seed, client, insert, update, state } of golden) {
    const kind = typeof seed === 'string' ? 'text' : 'list'
    const doc = new Y.Doc()
    doc.clientID = client
    const first = seedUpdate(kind, typeof seed === 'string' ? seed : JSON.stringify(seed))
    let made = new Uint8Array()
    if (first) {
      Y.applyUpdate(doc, first)
      made = new Uint8Array(withBlock(made, first))
    }
    let said = new Uint8Array()
    doc.on('update', (bytes: Uint8Array) => (said = new Uint8Array(bytes)))
    if (typeof insert === 'string') doc.getText('text').insert(0, insert)
    else doc.getArray('list').insert(0, insert)
    expect(toHex(said)).toBe(update)
    expect(toHex(withBlock(made, said))).toBe(state)
    const read = new Y.Doc()
    for (const block of blocksOf(withBlock(made, said))) Y.applyUpdate(read, block)
    const shown = kind === 'text' ? read.getText('text').toString() : read.getArray('list').toJSON()
    expect(shown).toEqual(typeof seed === 'string' ? String(insert) + seed : [...(insert as unknown[]), ...seed])
  }
})

test('states_follow_what_is_sent', () => {
  const name = stateName('body')
  const one = withBlock(new Uint8Array(), new Uint8Array([7]))
  const two = withBlock(one, new Uint8Array([8, 9]))
  const whole = { [name]: new Uint8Array([0, ...one]) }
  const more = { [name]: new Uint8Array([1, ...two.slice(one.length)]) }
  const first = received(undefined, whole)
  expect(first[name]).toEqual(one)
  const second = received(first, more)
  expect(second[name]).toEqual(two)
  expect(received(second, more)[name]).toEqual(two)
  expect(received(second, whole)[name]).toEqual(one)
  expect(() => blocksOf(two.slice(0, -1))).toThrow(RangeError)
})

test('a_replacement_is_one_run_and_places_follow_it', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' }), (before, after) => {
      const { at, removed, inserted } = replacement(before, after)
      expect(before.slice(0, at) + inserted + before.slice(at + removed)).toBe(after)
      // What is put in at a place comes after it.
      expect(moved(before, after, at)).toBe(at)
      expect(moved(before, after, before.length)).toBe(at === before.length ? at : after.length)
    }),
  )
  expect(replacement('a😀b', 'a😁b')).toEqual({ at: 1, removed: 2, inserted: '😁' })
  expect(moved('ab', 'aXb', 2)).toBe(3)
})

describe.skipIf(BINARY === undefined)('columns that merge, and the server', () => {
  let server: Server
  let client: Client
  const open: Device[] = []

  beforeAll(async () => {
    server = await Server.start()
    client = new Client({ url: server.url, webSocket })
  }, 60_000)

  afterEach(async () => {
    for (const one of open.splice(0)) await one.close()
  })

  afterAll(() => server.remove())

  async function notes(): Promise<string> {
    const name = `notes_${randomUUID().slice(0, 8)}`
    await client.sql(
      `CREATE TABLE ${name} (id TEXT PRIMARY KEY, body TEXT CRDT NOT NULL DEFAULT '', items LIST CRDT, CHECK (length(body) < 100))`,
    )
    await client.sql(`INSERT INTO ${name} VALUES ('n', 'milk and bread', '["a"]')`)
    return name
  }

  async function device(name: string, options: Partial<DeviceOptions> = {}): Promise<Device> {
    const opened = await Device.open({ name: 'test', store: new MemoryStore(), webSocket, url: server.url, ...options })
    open.push(opened)
    await opened.subscribe(name)
    await opened.when(({ live }) => live)
    return opened
  }

  const body = async (name: string): Promise<unknown> => (await client.sql(`SELECT body FROM ${name}`)).rows[0]?.[0]

  test('g9_two_devices_edit_one_text_without_a_network_and_all_of_it_is_there', async () => {
    const name = await notes()
    const [one, two] = [await device(name), await device(name)]
    const [here, there] = [sharedText(one, name, 'n', 'body'), sharedText(two, name, 'n', 'body')]
    one.disconnect()
    two.disconnect()
    await Promise.all([here.insert(4, ', eggs'), here.insert(0, 'Buy ')])
    await there.replace('milk and rye 😀')
    expect(here.value).toBe('Buy milk, eggs and bread')
    expect(there.value).toBe('milk and rye 😀')
    // The collection shows the same, and no state.
    expect(one.collection(name).get('n')).toEqual({ id: 'n', body: 'Buy milk, eggs and bread', items: ['a'] })
    for (const held of [one, two]) held.connect({ url: server.url })
    const all = 'Buy milk, eggs and rye 😀'
    await expect.poll(() => [here.value, there.value], settled).toEqual([all, all])
    await expect.poll(() => one.status.pending + two.status.pending, settled).toBe(0)
    expect(await body(name)).toBe(all)
    // Another edit, and one by a statement.
    await client.sql(`UPDATE ${name} SET body = body || '!'`)
    await there.insert(0, '> ')
    await expect.poll(() => [here.value, there.value], settled).toEqual([`> ${all}!`, `> ${all}!`])
    expect(one.rejections().length + two.rejections().length).toBe(0)
  })

  test('g9_a_refused_edit_is_taken_back_and_the_next_one_goes_on', async () => {
    const name = await notes()
    const [one, two] = [await device(name), await device(name)]
    const [here, there] = [sharedText(one, name, 'n', 'body'), sharedText(two, name, 'n', 'body')]
    two.disconnect()
    await there.insert(0, '2'.repeat(60))
    await here.insert(0, '1'.repeat(60))
    await expect.poll(() => one.status.pending, settled).toBe(0)
    two.connect({ url: server.url })
    await expect.poll(() => two.rejections().length, settled).toBe(1)
    expect(two.rejections()[0]?.violation.type).toBe('check')
    await expect.poll(() => there.value, settled).toBe(`${'1'.repeat(60)}milk and bread`)
    await there.insert(0, '2')
    await expect.poll(() => here.value, settled).toBe(`2${'1'.repeat(60)}milk and bread`)
    expect(two.rejections().length).toBe(1)
  })

  test('g9_lists_merge_and_documents_are_made_and_edited_at_once', async () => {
    const name = await notes()
    const [one, two] = [await device(name), await device(name)]
    const [here, there] = [sharedList(one, name, 'n', 'items'), sharedList(two, name, 'n', 'items')]
    one.disconnect()
    two.disconnect()
    await here.push({ k: [1, null] }, 2.5)
    await there.insert(0, 'z', true)
    await two.collection(name).put({ id: 'new', body: 'made' })
    await sharedText(two, name, 'new', 'body').insert(4, ' here')
    for (const held of [one, two]) held.connect({ url: server.url })
    const all = ['z', true, 'a', { k: [1, null] }, 2.5]
    await expect.poll(() => [here.value, there.value], settled).toEqual([all, all])
    await expect.poll(() => sharedText(one, name, 'new', 'body').value, settled).toBe('made here')
    await expect(two.collection(name).patch('n', { body: 'x' })).rejects.toThrow('sharedText')
  })

  test('g9_random_edits_of_three_devices_converge', async () => {
    const runs = Number(process.env['SPRINGHEAD_SEEDS'] ?? 3)
    const step = fc.record({ who: fc.nat(2), kind: fc.nat(5), at: fc.nat(200), text: fc.string({ minLength: 1, maxLength: 4 }) })
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 30 }), async (steps) => {
        const name = await notes()
        await client.sql(`ALTER TABLE ${name} DROP CONSTRAINT ${name}_body_check`)
        const devices = [await device(name), await device(name), await device(name)]
        const texts = devices.map((held) => sharedText(held, name, 'n', 'body'))
        for (const { who, kind, at, text } of steps) {
          const [held, shared] = [devices[who] as Device, texts[who] as (typeof texts)[number]]
          if (kind === 0) held.disconnect()
          else if (kind === 1) held.connect({ url: server.url })
          else if (kind === 2 && shared.value !== '') await shared.replace(shared.value.slice(0, at % shared.value.length))
          else if (kind === 3) await client.sql(`UPDATE ${name} SET body = body || 's'`)
          else await shared.replace(text + shared.value)
        }
        for (const held of devices) held.connect({ url: server.url })
        await expect.poll(() => devices.map(({ status }) => status.pending), settled).toEqual([0, 0, 0])
        const all = await body(name)
        await expect.poll(() => texts.map(({ value }) => value), settled).toEqual([all, all, all])
        for (const held of devices) {
          expect(held.rejections()).toEqual([])
          await held.close()
        }
      }),
      { numRuns: runs },
    )
  }, 120_000)
})
