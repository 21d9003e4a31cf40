import 'fake-indexeddb/auto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { IndexedDbStore } from '../src/sync/indexeddb.js'
import { MemoryStore, type Store } from '../src/sync/store.js'

let names = 0

test.each<[string, () => Promise<Store>]>([
  ['memory', () => Promise.resolve(new MemoryStore())],
  ['IndexedDB', () => IndexedDbStore.open(`store-${names++}`)],
])('g9_a_store_in_%s_keeps_whole_batches_in_the_order_of_their_keys', async (_, open) => {
  const key = fc.constantFrom('meta', 'doc/a/[1]', 'doc/a/[2]', 'mutation/01', 'mutation/02')
  const value = fc.oneof(fc.string(), fc.uint8Array(), fc.bigInt({ min: 0n, max: 1n << 60n }), fc.record({ a: fc.integer() }))
  const batch = fc.record({ put: fc.array(fc.tuple(key, value)), remove: fc.uniqueArray(key) })
  await fc.assert(
    fc.asyncProperty(fc.array(batch, { maxLength: 8 }), async (batches) => {
      const store = await open()
      const model = new Map<string, unknown>()
      for (const { put, remove } of batches) {
        const read = put.map(([name]) => name)
        const expected = read.map((name) => model.get(name))
        await store.change(read, (found) => {
          expect(found).toEqual(expected)
          return { put: [...put], remove: [...remove] }
        })
        for (const [name, entry] of put) model.set(name, entry)
        for (const name of remove) model.delete(name)
      }
      expect(await store.load()).toEqual([...model].sort(([a], [b]) => (a < b ? -1 : 1)))
      store.close()
    }),
    { numRuns: 40 },
  )
})

test('g9_a_batch_that_cannot_be_built_changes_nothing', async () => {
  for (const store of [new MemoryStore(), await IndexedDbStore.open('refusing')]) {
    await store.change([], () => ({ put: [['a', 1]], remove: [] }))
    const failing = store.change(['a'], () => {
      throw new TypeError('no')
    })
    await expect(failing).rejects.toThrow('no')
    expect(await store.load()).toEqual([['a', 1]])
  }
})
