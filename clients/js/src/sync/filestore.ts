/**
 * A device's entries in one file of Node's: batches appended with checksums, each synced before its
 * promise resolves, so that a process may die at any time. The file is written anew when most of it is
 * out of date.
 *
 *     file   := record*
 *     record := length:u32 LE  crc:u32 LE  body:length bytes      crc: CRC-32C of the body
 *     body   := entry*
 *     entry  := keyLength:u32  key  valueLength:u32  value        valueLength 2^32-1: removed, no value
 *
 * Values are what V8 serialises. Only the last record can be torn: it was promised to nobody, and goes.
 */

import { open, mkdir, readFile, rename, rm, writeFile, type FileHandle } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { deserialize, serialize } from 'node:v8'
import { crc32c } from '../crc32c.js'
import type { Batch, Key, Store } from './store.js'

const HEAD_BYTES = 8
const REMOVED = 0xffffffff
/** Below this a file is not worth writing anew. */
const LEAST_COMPACTED_BYTES = 1024 * 1024
/** Records of a file that is written anew. */
const RECORD_BYTES = 1024 * 1024

/** The file has bytes in its middle that were not written so: the disk has changed them. */
export class DamagedStore extends Error {
  override readonly name = 'DamagedStore'
}

/** Another process, or another device of this one, has the directory. */
export class StoreInUse extends Error {
  override readonly name = 'StoreInUse'
}

interface Place {
  at: number
  length: number
}

/** Directories that this process has open. */
const held = new Set<string>()

export class FileStore implements Store {
  readonly #index = new Map<Key, Place>()
  #file: FileHandle | undefined
  #bytes = 0
  /** Bytes of entries that are not out of date. */
  #liveBytes = 0
  #turn: Promise<unknown> = Promise.resolve()
  /** Set when a write failed: what is in the file then nobody knows. */
  #failure: Error | undefined

  private constructor(private readonly directory: string) {}

  /** Opens what is kept in `directory`, which is made if it is not there. */
  static async open(directory: string): Promise<FileStore> {
    const path = resolve(directory)
    await mkdir(path, { recursive: true })
    await claim(path)
    const store = new FileStore(path)
    try {
      await store.#open()
    } catch (error) {
      await store.#release()
      throw error
    }
    return store
  }

  get #path(): string {
    return join(this.directory, 'entries')
  }

  async #open(): Promise<void> {
    await rm(`${this.#path}.new`, { force: true })
    this.#file = await open(this.#path, 'a+', 0o600)
    const bytes = await this.#file.readFile()
    let at = 0
    for (let end = recordEnd(bytes, at); end !== undefined; end = recordEnd(bytes, at)) {
      this.#take(bytes.subarray(at + HEAD_BYTES, end), at + HEAD_BYTES)
      at = end
    }
    if (at < bytes.length) await this.#cutTail(bytes, at)
    this.#bytes = at
    await syncDirectory(this.directory)
  }

  /** What follows `at` is no whole record: torn, if nothing whole follows it. */
  async #cutTail(bytes: Buffer, at: number): Promise<void> {
    const next = bytes.length - at >= HEAD_BYTES ? at + HEAD_BYTES + bytes.readUInt32LE(at) : bytes.length
    if (next < bytes.length && recordEnd(bytes, next) !== undefined) {
      throw new DamagedStore(`${this.#path} is damaged at byte ${at}: take it away to begin with an empty device`)
    }
    await this.#opened().truncate(at)
    await this.#opened().sync()
  }

  #opened(): FileHandle {
    if (this.#failure) throw this.#failure
    if (this.#file === undefined) throw new TypeError('the store is closed')
    return this.#file
  }

  /** Takes a record's entries into the index; the body begins at `start` of the file. */
  #take(body: Buffer, start: number): void {
    let at = 0
    while (at < body.length) {
      const keyLength = body.readUInt32LE(at)
      const key = body.toString('utf8', at + 4, at + 4 + keyLength)
      at += 4 + keyLength
      const length = body.readUInt32LE(at)
      at += 4
      this.#liveBytes -= this.#index.get(key)?.length ?? 0
      this.#index.delete(key)
      if (length === REMOVED) continue
      this.#index.set(key, { at: start + at, length })
      this.#liveBytes += length
      at += length
    }
  }

  load(): Promise<[Key, unknown][]> {
    return this.#next(async () => {
      const bytes = await readFile(this.#path)
      const entries = [...this.#index].map(([key, { at, length }]): [Key, unknown] => [
        key,
        deserialize(bytes.subarray(at, at + length)),
      ])
      return entries.sort(([a], [b]) => (a < b ? -1 : 1))
    })
  }

  change(read: Key[], build: (found: unknown[]) => Batch): Promise<Batch> {
    return this.#next(async () => {
      const found = await Promise.all(read.map((key) => this.#read(key)))
      const batch = build(found)
      const entries = [...batch.put.map(([key, value]) => entry(key, serialize(value))), ...batch.remove.map((key) => entry(key))]
      if (entries.length > 0) await this.#append(Buffer.concat(entries))
      return batch
    })
  }

  async #read(key: Key): Promise<unknown> {
    const bytes = await this.#readBytes(key)
    return bytes && deserialize(bytes)
  }

  async #readBytes(key: Key): Promise<Buffer | undefined> {
    const place = this.#index.get(key)
    if (place === undefined) return undefined
    const bytes = Buffer.alloc(place.length)
    await this.#opened().read(bytes, 0, place.length, place.at)
    return bytes
  }

  async #append(body: Buffer): Promise<void> {
    const file = this.#opened()
    try {
      await file.appendFile(record(body))
      await file.datasync()
    } catch (error) {
      this.#failure = error instanceof Error ? error : new Error(String(error))
      throw error
    }
    this.#take(body, this.#bytes + HEAD_BYTES)
    this.#bytes += HEAD_BYTES + body.length
    if (this.#bytes > LEAST_COMPACTED_BYTES && this.#bytes > this.#liveBytes * 4) await this.#compact()
  }

  /** Writes what there is to a new file, which takes the old one's place at once. */
  async #compact(): Promise<void> {
    const path = `${this.#path}.new`
    const file = await open(path, 'w', 0o600)
    let entries: Buffer[] = []
    let bytes = 0
    const flush = async (): Promise<void> => {
      await file.appendFile(record(Buffer.concat(entries)))
      entries = []
      bytes = 0
    }
    for (const key of this.#index.keys()) {
      const value = await this.#readBytes(key)
      if (value === undefined) continue
      entries.push(entry(key, value))
      bytes += value.length
      if (bytes > RECORD_BYTES) await flush()
    }
    if (entries.length > 0) await flush()
    await file.sync()
    await file.close()
    await rename(path, this.#path)
    await syncDirectory(this.directory)
    await this.#opened().close()
    this.#index.clear()
    this.#liveBytes = 0
    await this.#open()
  }

  /** One after the other. */
  #next<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(act)
    this.#turn = turn.catch(() => undefined)
    return turn
  }

  isPersistent(): Promise<boolean> {
    return Promise.resolve(true)
  }

  close(): Promise<void> {
    return this.#next(() => this.#release())
  }

  async #release(): Promise<void> {
    await this.#file?.close()
    this.#file = undefined
    if (held.delete(this.directory)) await rm(join(this.directory, 'lock'), { force: true })
  }
}

function entry(key: Key, value?: Buffer): Buffer {
  const name = Buffer.from(key)
  const head = Buffer.alloc(8 + name.length)
  head.writeUInt32LE(name.length, 0)
  name.copy(head, 4)
  head.writeUInt32LE(value?.length ?? REMOVED, 4 + name.length)
  return value === undefined ? head : Buffer.concat([head, value])
}

function record(body: Buffer): Buffer {
  const head = Buffer.alloc(HEAD_BYTES)
  head.writeUInt32LE(body.length, 0)
  head.writeUInt32LE(crc32c(body), 4)
  return Buffer.concat([head, body])
}

/** Where the record at `at` ends, if it is whole. */
function recordEnd(bytes: Buffer, at: number): number | undefined {
  if (bytes.length - at < HEAD_BYTES) return undefined
  const length = bytes.readUInt32LE(at)
  const end = at + HEAD_BYTES + length
  if (length === 0 || end > bytes.length) return undefined
  return crc32c(bytes.subarray(at + HEAD_BYTES, end)) === bytes.readUInt32LE(at + 4) ? end : undefined
}

/** Marks the directory as this process's; a mark of a process that is gone is none. */
async function claim(directory: string): Promise<void> {
  if (held.has(directory)) throw new StoreInUse(`${directory} is open in this process already`)
  const path = join(directory, 'lock')
  for (;;) {
    try {
      await writeFile(path, String(process.pid), { flag: 'wx', mode: 0o600 })
      held.add(directory)
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    const owner = Number(await readFile(path, 'utf8').catch(() => ''))
    if (owner > 0 && owner !== process.pid && isAlive(owner)) {
      throw new StoreInUse(`${directory} is open in process ${owner}; if that is no device, take ${path} away`)
    }
    await rm(path, { force: true })
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  await directory.sync().finally(() => directory.close())
}
