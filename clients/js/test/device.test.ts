import 'fake-indexeddb/auto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { addDecimal, applyOperation } from '../src/sync/apply.js'
import { applyFix, Device } from '../src/sync/device.js'
import { Intake } from '../src/sync/intake.js'
import { IndexedDbStore } from '../src/sync/indexeddb.js'
import type { Delta } from '../src/sync/messages.js'
import { MemoryStore } from '../src/sync/store.js'

interface Todo {
  id: string
  title: string
  votes: number
  tags: string
}

async function alone(): Promise<Device> {
  return Device.open({ name: 'alone', store: new MemoryStore() })
}

describe('alone', () => {
  test('g9_a_device_works_without_a_server_and_keeps_what_was_written', async () => {
    const device = await Device.open({ name: 'kept', store: await IndexedDbStore.open('kept') })
    const todos = device.collection<Todo>('todos')
    const seen: string[][] = []
    const stop = todos.live({ orderBy: '-votes' }, (documents) => seen.push(documents.map(({ title }) => title)))
    await todos.put({ id: 'a', title: 'milk', votes: 1 })
    await todos.put({ id: 'b', title: 'bread', votes: 2 })
    await todos.inc('a', { votes: 5 })
    await todos.put({ id: 'b', title: 'rye bread' })
    await todos.add('a', { tags: ['shop', 'shop', 'now'] })
    stop()
    expect(seen).toEqual([[], ['milk'], ['bread', 'milk'], ['milk', 'bread'], ['milk', 'rye bread'], ['milk', 'rye bread']])
    await device.close()

    const again = await Device.open({ name: 'kept', store: await IndexedDbStore.open('kept') })
    expect(again.collection<Todo>('todos').query({ where: ({ votes }) => votes > 2 })).toEqual([
      { id: 'a', title: 'milk', votes: 6, tags: '["shop","now"]' },
    ])
    expect(again.pending().map(({ seq, after }) => [seq, after])).toEqual([
      [1, []],
      [2, []],
      [3, [1]],
      [4, [2]],
      [5, [1]],
    ])
    expect(again.status).toMatchObject({ state: 'alone', pending: 5, rejections: 0 })
    await again.close()
  })

  test('g3_a_transaction_is_one_mutation_and_sees_its_own_writes', async () => {
    const device = await alone()
    await device.transaction((collection) => {
      collection<Todo>('todos').put({ id: 'a', title: 'x' })
      collection<Todo>('todos').put({ id: 'a', title: 'y' })
      collection('lists').put({ id: 1 })
    })
    const [mutation] = device.pending()
    expect(mutation?.operations.map((operation) => Object.keys(operation)[2])).toEqual(['insert', 'set', 'insert'])
    await expect(device.transaction(() => undefined)).rejects.toThrow('without an operation')
    await device.close()
  })
})

describe('the server speaks', () => {
  const cursor = (lsn: number): string => `${lsn}@9c1e04d7`

  async function withShape(): Promise<Device> {
    const device = await alone()
    const shape = await device.subscribe('todos', { where: 'votes > $1', params: [0] })
    expect(await device.subscribe('todos', { where: 'votes > $1', params: [0] })).toBe(shape)
    await take(device, (intake) =>
      intake.snapshot({
        shape,
        first: true,
        columns: ['id', 'title', 'votes'],
        key: 1,
        rows: [['a', 'milk', 1], ['b', 'bread', 2]],
        done: { cursor: cursor(10) },
      }),
    )
    return device
  }

  function take(device: Device, act: (intake: Intake) => void): Promise<void> {
    return device.replica.change((meta) => {
      const intake = new Intake(device.replica, meta)
      act(intake)
      return intake.batch()
    })
  }

  const delta = (device: Device, ...frames: Delta[]): Promise<void> => take(device, (intake) => intake.delta(frames))

  test('g9_a_pending_mutation_is_replayed_on_what_the_server_says_until_its_commit_comes', async () => {
    const device = await withShape()
    const todos = device.collection<Todo>('todos')
    await todos.inc('a', { votes: 10 })
    await delta(device, { cursor: cursor(11), changes: [{ of: [1], id: ['a'], set: { votes: 5 } }] })
    expect(todos.get('a')?.votes).toBe(15)
    await take(device, (intake) => intake.verdict({ seq: 1, applied: 12 }))
    expect(device.status.pending).toBe(0)
    expect(todos.get('a')?.votes).toBe(15)
    const { producer, generation } = device.replica.meta
    await delta(device, {
      cursor: cursor(12),
      own: { producer, generation, seq: 1 },
      changes: [{ of: [1], id: ['a'], set: { votes: 15 } }],
    })
    expect(todos.get('a')?.votes).toBe(15)
    expect(device.replica.pending.size).toBe(0)
  })

  test('g9_a_rejected_update_restores_exactly_the_servers_row_and_is_kept_with_its_hint', async () => {
    const device = await withShape()
    const todos = device.collection<Todo>('todos')
    const before = todos.get('a')
    await todos.patch('a', { title: 'bread' })
    await todos.patch('b', { title: 'rye' })
    const { producer, generation } = device.replica.meta
    await take(device, (intake) =>
      intake.reject({
        producer,
        generation,
        seq: 1,
        dead_letter_id: 7,
        violation: { type: 'unique', column: 'title', value: 'bread' },
        hint: {
          kind: 'unique',
          column: 'title',
          value: 'bread (2)',
          fixes: [{ fix: 'set_column', operation: 0, column: 'title', value: 'bread (2)' }],
        },
      }),
    )
    expect(todos.get('a')).toEqual(before)
    expect(todos.get('b')?.title).toBe('rye')
    const [rejection] = device.rejections()
    expect(rejection).toMatchObject({ deadLetterId: 7, operations: [{ set: { title: 'bread' } }] })
    await device.retry(rejection?.id ?? '', rejection?.hint.fixes?.[0])
    expect(todos.get('a')?.title).toBe('bread (2)')
    expect(device.rejections()).toEqual([])
  })

  test('g6_rows_leave_with_the_last_shape_that_has_them', async () => {
    const device = await withShape()
    const other = await device.subscribe('todos', { where: "title = 'milk'" })
    await delta(device, { cursor: cursor(11), changes: [{ of: [other], id: ['a'], put: { title: 'milk', votes: 1 } }] })
    await delta(device, { cursor: cursor(12), changes: [{ of: [1], id: ['a'], leave: true }] })
    expect(device.collection('todos').query()).toHaveLength(2)
    await delta(device, { cursor: cursor(13), changes: [{ of: [other], id: ['a'], leave: true }] })
    expect(device.collection('todos').query()).toHaveLength(1)
    await delta(device, { cursor: cursor(14), changes: [{ of: [1], clear: true }] })
    expect(device.collection('todos').query()).toEqual([])
  })

  test('a_snapshot_sent_again_takes_away_what_is_not_in_it', async () => {
    const device = await withShape()
    const chunk = { shape: 1, columns: ['id', 'title', 'votes'], key: 1 }
    await take(device, (intake) => {
      intake.resync([])
      intake.snapshot({ ...chunk, first: true, rows: [['c', 'tea', 3]], resume: 'token' })
    })
    expect(device.status.complete).toBe(false)
    expect(device.replica.shapes.get(1)?.resume).toBe('token')
    expect(device.collection('todos').query()).toHaveLength(3)
    await take(device, (intake) => intake.snapshot({ ...chunk, rows: [['b', 'bread', 2]], done: { cursor: cursor(20) } }))
    expect(device.collection<Todo>('todos').query().map(({ id }) => id)).toEqual(['b', 'c'])
    expect(device.status.complete).toBe(true)
  })
})

test('a_fix_can_change_a_key_make_a_row_and_leave_a_column', () => {
  const operations = [{ in: 't', id: ['a'], insert: { id: 'a', n: 1 } }]
  const key = (): string[] => ['id']
  expect(applyFix(operations, { fix: 'set_column', operation: 0, column: 'id', value: 'b' }, key)).toEqual([
    { in: 't', id: ['b'], insert: { id: 'b', n: 1 } },
  ])
  expect(applyFix(operations, { fix: 'drop_column', operation: 0, column: 'n' }, key)).toEqual([
    { in: 't', id: ['a'], insert: { id: 'a' } },
  ])
  expect(applyFix(operations, { fix: 'create_row', collection: 'l', columns: { id: 5 } }, key)[0]).toEqual({
    in: 'l',
    id: [5],
    insert: { id: 5 },
  })
})

describe('operations', () => {
  test('decimals_are_added_exactly', () => {
    expect(addDecimal('0.1', '0.20')).toBe('0.30')
    expect(addDecimal('-1', '0.75')).toBe('-0.25')
    fc.assert(
      fc.property(fc.integer(), fc.integer(), (a, b) => {
        const cents = (n: number): string => `${n < 0 ? '-' : ''}${Math.floor(Math.abs(n) / 100)}.${String(Math.abs(n) % 100).padStart(2, '0')}`
        expect(addDecimal(cents(a), cents(b))).toBe(cents(a + b))
      }),
    )
  })

  test('only_an_insert_makes_a_document', () => {
    for (const verb of [{ set: { n: 1 } }, { inc: { n: 1 } }, { min: { n: 1 } }, { add: { n: [1] } }]) {
      expect(applyOperation(undefined, { in: 't', id: [1], ...verb })).toBeUndefined()
    }
    expect(applyOperation({ n: null }, { in: 't', id: [1], inc: { n: 2 } })).toEqual({ n: 2 })
    expect(applyOperation({ n: 3 }, { in: 't', id: [1], min: { n: 2 } })).toEqual({ n: 2 })
    expect(applyOperation({ n: 3 }, { in: 't', id: [1], max: { n: 2 } })).toEqual({ n: 3 })
    expect(applyOperation({ n: '[1,2]' }, { in: 't', id: [1], remove: { n: [1] } })).toEqual({ n: '[2]' })
  })
})
