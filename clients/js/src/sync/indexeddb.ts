/**
 * A device's entries in IndexedDB, one database per device name. Tabs of one origin share it.
 *
 * A request per document would make a first sync slow, so that many documents of one batch are one
 * record, a segment; few of them, and everything else, are records of their own. A document's record
 * counts against the segments up to the number in it, and segments count in their order: nothing has
 * to be looked for when something is written. What is out of date goes when all is loaded.
 */

import type { Batch, Key, Store } from './store.js'

const ENTRIES = 'entries'
const SEGMENTS = 'segments'
/** Among the entries: the number of the last segment. */
const LAST_SEGMENT = '#segment'
/** From how many documents on a batch's are a segment. */
const SEGMENT_DOCUMENTS = 16
/** Of a segment that is written anew. */
const FULL_SEGMENT_DOCUMENTS = 500
/** So much may be out of date before it is written anew. */
const STALE_DOCUMENTS = 1000

/** A document, and the segments that it is newer than; without a value it is gone. */
interface Newer {
  than: number
  value?: unknown
}

export class IndexedDbStore implements Store {
  private constructor(private readonly database: IDBDatabase) {}

  static async open(name: string, factory: IDBFactory = globalThis.indexedDB): Promise<IndexedDbStore> {
    const opening = factory.open(`springhead:${name}`, 1)
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore(ENTRIES)
      opening.result.createObjectStore(SEGMENTS)
    }
    const database = await outcome(opening)
    // Another tab wants to delete or upgrade it: do not stand in its way.
    database.onversionchange = () => database.close()
    return new IndexedDbStore(database)
  }

  async load(): Promise<[Key, unknown][]> {
    const all = await this.#readAll()
    if (all.stale > Math.max(STALE_DOCUMENTS, all.found.size)) await this.#compact()
    return [...all.found].sort(([a], [b]) => (a < b ? -1 : 1))
  }

  async #readAll(transaction = this.database.transaction([ENTRIES, SEGMENTS], 'readonly')): Promise<Contents> {
    const entries = transaction.objectStore(ENTRIES)
    const segments = transaction.objectStore(SEGMENTS)
    const [keys, values, numbers, parts] = await Promise.all([
      outcome(entries.getAllKeys()),
      outcome(entries.getAll() as IDBRequest<unknown[]>),
      outcome(segments.getAllKeys()),
      outcome(segments.getAll() as IDBRequest<[Key, unknown][][]>),
    ])
    return contents(
      keys.map((key, at) => [String(key), values[at]]),
      numbers.map((number, at) => [Number(number), parts[at] ?? []]),
    )
  }

  /** Writes all documents to new segments, in one transaction with reading them. */
  async #compact(): Promise<void> {
    const transaction = this.database.transaction([ENTRIES, SEGMENTS], 'readwrite', { durability: 'strict' })
    const done = finished(transaction)
    const { found } = await this.#readAll(transaction)
    const entries = transaction.objectStore(ENTRIES)
    const segments = transaction.objectStore(SEGMENTS)
    const documents = [...found].filter(([key]) => isDocument(key))
    segments.clear()
    entries.delete(IDBKeyRange.bound('doc/', 'doc0', false, true))
    let number = 0
    for (let at = 0; at < documents.length; at += FULL_SEGMENT_DOCUMENTS) {
      segments.put(documents.slice(at, at + FULL_SEGMENT_DOCUMENTS), ++number)
    }
    entries.put(number, LAST_SEGMENT)
    await done
  }

  async change(read: Key[], build: (found: unknown[]) => Batch): Promise<Batch> {
    if (read.some(isDocument)) throw new TypeError('documents are loaded, not read')
    const transaction = this.database.transaction([ENTRIES, SEGMENTS], 'readwrite', { durability: 'strict' })
    const done = finished(transaction)
    const entries = transaction.objectStore(ENTRIES)
    let batch: Batch = { put: [], remove: [] }
    let failure: unknown
    const found: unknown[] = []
    // In callbacks: a transaction ends when nothing has been asked of it in a turn.
    const asked = [...read, LAST_SEGMENT]
    let left = asked.length
    asked.forEach((key, at) => {
      const request = entries.get(key) as IDBRequest<unknown>
      request.onsuccess = () => {
        found[at] = request.result
        left -= 1
        if (left > 0) return
        try {
          const last = (found.pop() as number | undefined) ?? 0
          batch = build(found)
          write(transaction, batch, last)
        } catch (error) {
          failure = error
          transaction.abort()
        }
      }
    })
    await done.catch((error: unknown) => {
      throw failure === undefined ? error : asError(failure)
    })
    return batch
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

interface Contents {
  found: Map<Key, unknown>
  /** Documents in segments or records of their own that do not count any more. */
  stale: number
}

function contents(entries: [Key, unknown][], segments: [number, [Key, unknown][]][]): Contents {
  const found = new Map<Key, unknown>()
  const from = new Map<Key, number>()
  let stored = 0
  for (const [number, documents] of segments) {
    stored += documents.length
    for (const [key, value] of documents) {
      found.set(key, value)
      from.set(key, number)
    }
  }
  for (const [key, value] of entries) {
    if (key === LAST_SEGMENT) continue
    stored += 1
    if (!isDocument(key)) {
      found.set(key, value)
      continue
    }
    const newer = value as Newer
    if ((from.get(key) ?? 0) > newer.than) continue
    if ('value' in newer) found.set(key, newer.value)
    else found.delete(key)
  }
  return { found, stale: stored - found.size }
}

function write(transaction: IDBTransaction, batch: Batch, last: number): void {
  const entries = transaction.objectStore(ENTRIES)
  const documents = batch.put.filter(([key]) => isDocument(key))
  const isSegment = documents.length >= SEGMENT_DOCUMENTS
  const number = isSegment ? last + 1 : last
  if (isSegment) {
    transaction.objectStore(SEGMENTS).put(documents, number)
    entries.put(number, LAST_SEGMENT)
  }
  for (const [key, value] of batch.put) {
    if (!isDocument(key)) entries.put(value, key)
    else if (!isSegment) entries.put({ than: number, value } satisfies Newer, key)
  }
  for (const key of batch.remove) {
    if (isDocument(key)) entries.put({ than: number } satisfies Newer, key)
    else entries.delete(key)
  }
}

function isDocument(key: Key): boolean {
  return key.startsWith('doc/')
}

function finished(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve()
    transaction.onabort = () => reject(asError(transaction.error))
  })
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
