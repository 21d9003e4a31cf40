import 'fake-indexeddb/auto'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, open as openFile, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { build } from 'esbuild'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { DamagedStore, FileStore, StoreInUse } from '../src/sync/filestore.js'
import { IndexedDbStore } from '../src/sync/indexeddb.js'
import { MemoryStore, type Store } from '../src/sync/store.js'

let names = 0
let directory: string

beforeAll(async () => void (directory = await mkdtemp(join(tmpdir(), 'springhead-store-'))))
afterAll(() => rm(directory, { recursive: true, force: true }))

test.each<[string, () => Promise<Store>]>([
  ['memory', () => Promise.resolve(new MemoryStore())],
  ['IndexedDB', () => IndexedDbStore.open(`store-${names++}`)],
  ['a file', () => FileStore.open(join(directory, `store-${names++}`))],
])('g9_a_store_in_%s_keeps_whole_batches_in_the_order_of_their_keys', async (_, open) => {
  const key = fc.oneof(
    fc.constantFrom('meta', 'mutation/01', 'mutation/02'),
    fc.nat(60).map((n) => `doc/a/[${n}]`),
  )
  const value = fc.oneof(fc.string(), fc.uint8Array(), fc.bigInt({ min: 0n, max: 1n << 60n }), fc.record({ a: fc.integer() }))
  const batch = fc.record({ put: fc.array(fc.tuple(key, value), { maxLength: 60, size: 'max' }), remove: fc.uniqueArray(key) })
  await fc.assert(
    fc.asyncProperty(fc.array(batch, { maxLength: 8 }), async (batches) => {
      const store = await open()
      const model = new Map<string, unknown>()
      for (const { put, remove } of batches) {
        const kept = put.filter(([name]) => !remove.includes(name))
        const read = kept.map(([name]) => name).filter((name) => !name.startsWith('doc/'))
        const expected = read.map((name) => model.get(name))
        await store.change(read, (found) => {
          expect(found).toEqual(expected)
          return { put: [...kept], remove: [...remove] }
        })
        for (const [name, entry] of kept) model.set(name, entry)
        for (const name of remove) model.delete(name)
      }
      expect(await store.load()).toEqual([...model].sort(([a], [b]) => (a < b ? -1 : 1)))
      await store.close()
    }),
    { numRuns: 40 },
  )
})

test('g9_a_batch_that_cannot_be_built_changes_nothing', async () => {
  for (const store of [new MemoryStore(), await IndexedDbStore.open('refusing'), await FileStore.open(join(directory, 'refusing'))]) {
    await store.change([], () => ({ put: [['a', 1]], remove: [] }))
    const failing = store.change(['a'], () => {
      throw new TypeError('no')
    })
    await expect(failing).rejects.toThrow('no')
    expect(await store.load()).toEqual([['a', 1]])
  }
})

test('g9_documents_in_indexed_db_that_are_out_of_date_go_when_all_is_loaded', async () => {
  const factory = new IDBFactory()
  const store = await IndexedDbStore.open('stale', factory)
  const documents = Array.from({ length: 100 }, (_, n): [string, unknown] => [`doc/a/[${n}]`, n])
  for (let round = 0; round < 15; round++) await store.change([], () => ({ put: documents.map(([key]) => [key, round]), remove: [] }))
  await store.change([], () => ({ put: [['doc/a/[0]', 'new']], remove: ['doc/a/[1]'] }))
  const expected = documents.slice(2).map(([key]) => [key, 14])
  for (let time = 0; time < 2; time++) {
    const loaded = new Map(await store.load())
    expect(loaded.get('doc/a/[0]')).toBe('new')
    expect([...loaded].filter(([key]) => expected.some(([other]) => other === key)).length).toBe(98)
    expect(loaded.size).toBe(99)
  }
  await store.change([], () => ({ put: documents, remove: [] }))
  expect(new Map(await store.load())).toEqual(new Map(documents))
})

describe('files', () => {
  test('g9_a_file_is_written_anew_when_most_of_it_is_out_of_date', async () => {
    const path = join(directory, 'compacted')
    const store = await FileStore.open(path)
    for (let n = 0; n < 60; n++) {
      await store.change(['n'], () => ({ put: [['n', n], [`k${n % 3}`, 'x'.repeat(50_000)]], remove: [] }))
    }
    expect((await stat(join(path, 'entries'))).size).toBeLessThan(1_300_000)
    await expect(FileStore.open(path)).rejects.toThrow(StoreInUse)
    await store.close()
    const again = await FileStore.open(path)
    expect((await again.load()).map(([key, value]) => [key, key === 'n' ? value : String(value).length])).toEqual([
      ['k0', 50_000],
      ['k1', 50_000],
      ['k2', 50_000],
      ['n', 59],
    ])
    await again.close()
  })

  test('g9_a_torn_end_goes_and_damage_in_the_middle_is_told', async () => {
    const path = join(directory, 'torn')
    const store = await FileStore.open(path)
    for (const n of [1, 2]) await store.change([], () => ({ put: [[`k${n}`, n]], remove: [] }))
    await store.close()
    const whole = await readFile(join(path, 'entries'))
    await (await FileStore.open(path)).close()
    for (let length = whole.length / 2; length < whole.length; length++) {
      const torn = join(directory, `torn-${length}`)
      await (await FileStore.open(torn)).close()
      await writeFile(join(torn, 'entries'), whole.subarray(0, length))
      const cut = await FileStore.open(torn)
      expect(await cut.load()).toEqual([['k1', 1]])
      await cut.change([], () => ({ put: [['k3', 3]], remove: [] }))
      expect(await cut.load()).toEqual([['k1', 1], ['k3', 3]])
      await cut.close()
    }
    const damaged = join(directory, 'damaged')
    await (await FileStore.open(damaged)).close()
    const file = await openFile(join(damaged, 'entries'), 'w')
    await file.writeFile(whole.map((byte, at) => (at === 12 ? byte ^ 1 : byte)))
    await file.close()
    await expect(FileStore.open(damaged)).rejects.toThrow(DamagedStore)
  })

  test('g9_what_a_file_has_promised_outlives_kill_9', async () => {
    const path = join(directory, 'killed')
    const script = join(directory, 'writer.mjs')
    const source = `import { FileStore } from ${JSON.stringify(new URL('../src/node.ts', import.meta.url).pathname)}
      const store = await FileStore.open(process.argv[2])
      for (;;) {
        const { put } = await store.change(['n'], ([n = 0]) => ({ put: [['n', n + 1], ['twin', n + 1], ['fill' + n % 9, 'x'.repeat(n % 7 * 5000)]], remove: [] }))
        process.stdout.write(put[0][1] + '\\n')
      }`
    const options = { bundle: true, platform: 'node', format: 'esm', outfile: script } as const
    await build({ stdin: { contents: source, resolveDir: '.' }, ...options })
    let promised = 0
    for (let kill = 0; kill < 8; kill++) {
      const child = spawn(process.execPath, [script, path])
      const ended = once(child, 'exit')
      const until = promised + 20 + kill
      child.stdout.on('data', (data: Buffer) => {
        promised = Math.max(promised, ...String(data).trim().split('\n').map(Number))
        if (promised >= until) child.kill('SIGKILL')
      })
      await ended
      const store = await FileStore.open(path)
      const entries = new Map(await store.load())
      expect(entries.get('n')).toBeGreaterThanOrEqual(promised)
      expect(entries.get('twin')).toBe(entries.get('n'))
      await store.close()
      await (await FileStore.open(path)).close()
    }
  })
})
