/**
 * A device's entries in IndexedDB: one database per device name, one object store, keys out of line.
 * Tabs of one origin share it.
 */

import type { Batch, Key, Store } from './store.js'

const ENTRIES = 'entries'

export class IndexedDbStore implements Store {
  private constructor(private readonly database: IDBDatabase) {}

  static async open(name: string, factory: IDBFactory = globalThis.indexedDB): Promise<IndexedDbStore> {
    const opening = factory.open(`springhead:${name}`, 1)
    opening.onupgradeneeded = () => opening.result.createObjectStore(ENTRIES)
    const database = await outcome(opening)
    // Another tab wants to delete or upgrade it: do not stand in its way.
    database.onversionchange = () => database.close()
    return new IndexedDbStore(database)
  }

  async load(): Promise<[Key, unknown][]> {
    const entries = this.database.transaction(ENTRIES, 'readonly').objectStore(ENTRIES)
    const [keys, values] = await Promise.all([outcome(entries.getAllKeys()), outcome(entries.getAll() as IDBRequest<unknown[]>)])
    return keys.map((key, at) => [String(key), values[at]])
  }

  change(read: Key[], build: (found: unknown[]) => Batch): Promise<Batch> {
    const transaction = this.database.transaction(ENTRIES, 'readwrite', { durability: 'strict' })
    const entries = transaction.objectStore(ENTRIES)
    return new Promise((resolve, reject) => {
      let batch: Batch = { put: [], remove: [] }
      let failure: unknown
      const write = (found: unknown[]): void => {
        try {
          batch = build(found)
          for (const [key, value] of batch.put) entries.put(value, key)
          for (const key of batch.remove) entries.delete(key)
        } catch (error) {
          failure = error
          transaction.abort()
        }
      }
      transaction.oncomplete = () => resolve(batch)
      transaction.onabort = () => reject(asError(failure ?? transaction.error))
      if (read.length === 0) write([])
      const found: unknown[] = []
      let left = read.length
      read.forEach((key, at) => {
        const request = entries.get(key) as IDBRequest<unknown>
        request.onsuccess = () => {
          found[at] = request.result
          left -= 1
          if (left === 0) write(found)
        }
      })
    })
  }

  async isPersistent(): Promise<boolean> {
    const storage = (globalThis as { navigator?: Navigator }).navigator?.storage
    if (storage?.persisted === undefined) return false
    return (await storage.persisted()) || (await storage.persist())
  }

  close(): void {
    this.database.close()
  }
}

function outcome<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(asError(request.error))
  })
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
