/**
 * The result of one live query, kept by its deltas. Rows may be equal, so keys may be: any of those
 * with the same key may be taken.
 */

import type { Row } from './http.js'

export interface Column {
  name: string
  type: string
}

export interface Snapshot {
  columns: Column[]
  keys: string[]
  rows: unknown[][]
}

interface Placed {
  key: string
  row: unknown[]
  /** Where it stands; only in results that have an order. */
  position?: number
}

export interface Delta {
  cursor: string
  added: Placed[]
  changed: Placed[]
  removed: { key: string }[]
}

export class Result {
  #columns: Column[] = []
  #entries: { key: string; row: Row }[] = []
  #cursor: string | undefined
  #ready = false

  get ready(): boolean {
    return this.#ready
  }

  get cursor(): string | undefined {
    return this.#cursor
  }

  /** The cursor to go on from; none while a snapshot is not whole. */
  get resumable(): string | undefined {
    return this.#ready ? this.#cursor : undefined
  }

  rows(): readonly Row[] {
    return this.#entries.map((entry) => entry.row)
  }

  /** Forgets the rows, before another snapshot. */
  clear(): void {
    this.#entries = []
  }

  /** Forgets that there is anything to go on from. The rows stay until another snapshot begins. */
  forget(): void {
    this.#ready = false
    this.#cursor = undefined
  }

  snapshot(chunk: Snapshot): void {
    this.#columns = chunk.columns
    chunk.rows.forEach((row, at) => this.#entries.push({ key: chunk.keys[at] ?? '', row: this.#object(row) }))
  }

  setReady(ready: { cursor: string }): void {
    this.#ready = true
    this.#cursor = ready.cursor
  }

  progress(progress: { cursor: string }): void {
    this.#cursor = progress.cursor
  }

  apply(delta: Delta): void {
    const puts = [...delta.added, ...delta.changed]
    const ordered = puts.some((put) => put.position !== undefined)
    if (ordered || this.#entries.length === 0) this.#applyOrdered(delta, puts)
    else this.#applyUnordered(delta)
    this.#cursor = delta.cursor
  }

  #applyOrdered(delta: Delta, puts: Placed[]): void {
    this.#take([...delta.removed, ...delta.changed])
    puts.sort((a, b) => (a.position ?? Infinity) - (b.position ?? Infinity))
    for (const { key, row, position } of puts) {
      this.#entries.splice(position ?? this.#entries.length, 0, { key, row: this.#object(row) })
    }
  }

  /** Changed rows stay where they are. */
  #applyUnordered(delta: Delta): void {
    this.#take(delta.removed)
    const changed = new Map<string, Placed[]>()
    for (const put of delta.changed) changed.set(put.key, [...(changed.get(put.key) ?? []), put])
    for (const entry of this.#entries) {
      const put = changed.get(entry.key)?.shift()
      if (put) entry.row = this.#object(put.row)
    }
    for (const { key, row } of delta.added) this.#entries.push({ key, row: this.#object(row) })
  }

  /** Takes one row out for each of `gone`. */
  #take(gone: { key: string }[]): void {
    const counts = new Map<string, number>()
    for (const { key } of gone) counts.set(key, (counts.get(key) ?? 0) + 1)
    this.#entries = this.#entries.filter(({ key }) => {
      const count = counts.get(key) ?? 0
      if (count > 0) counts.set(key, count - 1)
      return count === 0
    })
  }

  #object(row: unknown[]): Row {
    return Object.fromEntries(this.#columns.map(({ name }, at) => [name, row[at]]))
  }
}
