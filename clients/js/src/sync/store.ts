/**
 * Where a device keeps what it has: entries by key, changed in atomic batches. A batch is durable
 * when its promise resolves. Implemented by `MemoryStore` here, by `IndexedDbStore` in browsers and
 * by `FileStore` in Node.
 */

/** Keys order entries by kind: `meta`, `doc/…`, `mutation/…`, `rejection/…`, `definition/…`. */
export type Key = string

export interface Batch {
  put: [Key, unknown][]
  remove: Key[]
}

export interface Store {
  /** Everything there is, in the order of the keys. */
  load(): Promise<[Key, unknown][]>
  /**
   * Changes entries at once. `build` is given what `read` names as it is now, in the same transaction
   * (other tabs write too; documents are not read so), and says what to change. It must not wait for
   * anything. A key is put or removed, not both.
   */
  change(read: Key[], build: (found: unknown[]) => Batch): Promise<Batch>
  /** Whether the platform has promised to keep the data under storage pressure. */
  isPersistent(): Promise<boolean>
  close(): void | Promise<void>
}

/** Kept as long as the process lives: for tests, and for devices that may forget. */
export class MemoryStore implements Store {
  readonly #entries = new Map<Key, unknown>()

  load(): Promise<[Key, unknown][]> {
    const entries = [...this.#entries].map(([key, value]): [Key, unknown] => [key, structuredClone(value)])
    return Promise.resolve(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
  }

  async change(read: Key[], build: (found: unknown[]) => Batch): Promise<Batch> {
    await Promise.resolve()
    const batch = build(read.map((key) => structuredClone(this.#entries.get(key))))
    for (const [key, value] of batch.put) this.#entries.set(key, structuredClone(value))
    for (const key of batch.remove) this.#entries.delete(key)
    return batch
  }

  isPersistent(): Promise<boolean> {
    return Promise.resolve(false)
  }

  close(): void {
    // Nothing to let go of.
  }
}
