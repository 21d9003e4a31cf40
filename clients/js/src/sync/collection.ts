/** A collection on the device: read, write and watch its documents, with or without a network. */

import { isStateName } from './cells.js'
import type { Device } from './device.js'
import type { TableDefinition } from './catalog.js'
import type { Columns, Operation, SyncValue } from './messages.js'
import { select, type Query } from './query.js'
import { keyText } from './values.js'

/** A document's key: one value, or those of a composite key in its order. */
export type Id = SyncValue | SyncValue[]

/** What a write does, and what becomes of it. */
export interface Write {
  /** Its number among this device's mutations. */
  seq: number
}

/** Columns to write. Columns of json, jsonb and arrays take what JSON has. */
export type Values<T> = { [K in keyof T]?: T[K] | SyncValue | undefined }

/** Operations on one collection, each to be part of one mutation. */
export class Writer<T = Columns> {
  constructor(
    private readonly device: Device,
    readonly name: string,
    private readonly emit: (operation: Operation) => void,
    private readonly look: (key: string) => Columns | undefined,
  ) {}

  #wire(columns: Values<T>): Columns {
    return toWire(columns, this.device.replica.table(this.name))
  }

  /** Makes the document, or sets all of the given columns of the one that is there. */
  put(document: Values<T>): void {
    const columns = this.#wire(document)
    const keyColumns = this.device.keyColumns(this.name)
    const id = keyColumns.map((column) => {
      const value = columns[column]
      if (value === undefined || value === null) throw new TypeError(`${this.name}: ${column} is part of the key`)
      return value
    })
    if (this.look(keyText(id)) === undefined) return this.emit({ in: this.name, id, insert: columns })
    const rest = Object.fromEntries(Object.entries(columns).filter(([column]) => !keyColumns.includes(column)))
    if (Object.keys(rest).length > 0) this.#set(id, rest)
  }

  #set(id: SyncValue[], columns: Columns): void {
    const merging = Object.keys(columns).find((column) => this.device.replica.table(this.name)?.cells.has(column))
    if (merging !== undefined) {
      throw new TypeError(`${this.name}.${merging} merges: edit it with sharedText or sharedList of springhead/crdt`)
    }
    this.emit({ in: this.name, id, set: columns })
  }

  /** Sets columns of a document that is there. */
  patch(id: Id, columns: Values<T>): void {
    this.#set([id].flat(), this.#wire(columns))
  }

  delete(id: Id): void {
    this.emit({ in: this.name, id: [id].flat(), delete: true })
  }

  /** Adds to numbers: concurrent additions all count. */
  inc(id: Id, by: Values<T>): void {
    this.emit({ in: this.name, id: [id].flat(), inc: this.#wire(by) })
  }

  /** Keeps the lower of what is there and this. */
  min(id: Id, columns: Values<T>): void {
    this.emit({ in: this.name, id: [id].flat(), min: this.#wire(columns) })
  }

  /** Keeps the greater of what is there and this. */
  max(id: Id, columns: Values<T>): void {
    this.emit({ in: this.name, id: [id].flat(), max: this.#wire(columns) })
  }

  /** Adds elements to array columns, each once: concurrent additions all count. */
  add(id: Id, elements: { [K in keyof T]?: SyncValue[] }): void {
    this.emit({ in: this.name, id: [id].flat(), add: elements as Record<string, SyncValue[]> })
  }

  /** Removes elements from array columns. */
  remove(id: Id, elements: { [K in keyof T]?: SyncValue[] }): void {
    this.emit({ in: this.name, id: [id].flat(), remove: elements as Record<string, SyncValue[]> })
  }

  /** @internal Updates of CRDT columns: see `springhead/crdt`. */
  merge(id: Id, updates: Record<string, Uint8Array>): void {
    this.emit({ in: this.name, id: [id].flat(), crdt: updates })
  }
}

/** See the module. Writes are durable on the device when their promise resolves. */
export class Collection<T = Columns> {
  constructor(
    private readonly device: Device,
    readonly name: string,
  ) {}

  get(id: Id): T | undefined {
    const columns = this.device.replica.view(this.name, keyText([id].flat()))
    return columns && fromWire<T>(columns, this.device.replica.table(this.name))
  }

  /** Whether some write to the document still waits for the server's verdict. */
  isPending(id: Id): boolean {
    return this.device.replica.pendingOf(this.name, keyText([id].flat())).length > 0
  }

  query(query: Query<T> = {}): T[] {
    return select(this.#documents(), query)
  }

  *#documents(): Generator<[string, T]> {
    const table = this.device.replica.table(this.name)
    for (const [key, columns] of this.device.replica.views(this.name)) yield [key, fromWire<T>(columns, table)]
  }

  /** Calls `listener` with the result now and whenever it may have changed; returns how to stop. */
  live(query: Query<T>, listener: (documents: T[]) => void): () => void {
    listener(this.query(query))
    return this.device.replica.onChange((touched) => {
      if (touched.has(this.name)) listener(this.query(query))
    })
  }

  put(document: Values<T>): Promise<Write> {
    return this.#write((writer) => writer.put(document))
  }

  patch(id: Id, columns: Values<T>): Promise<Write> {
    return this.#write((writer) => writer.patch(id, columns))
  }

  delete(id: Id): Promise<Write> {
    return this.#write((writer) => writer.delete(id))
  }

  inc(id: Id, by: Values<T>): Promise<Write> {
    return this.#write((writer) => writer.inc(id, by))
  }

  min(id: Id, columns: Values<T>): Promise<Write> {
    return this.#write((writer) => writer.min(id, columns))
  }

  max(id: Id, columns: Values<T>): Promise<Write> {
    return this.#write((writer) => writer.max(id, columns))
  }

  add(id: Id, elements: { [K in keyof T]?: SyncValue[] }): Promise<Write> {
    return this.#write((writer) => writer.add(id, elements))
  }

  remove(id: Id, elements: { [K in keyof T]?: SyncValue[] }): Promise<Write> {
    return this.#write((writer) => writer.remove(id, elements))
  }

  #write(act: (writer: Writer<T>) => void): Promise<Write> {
    return this.device.transaction((collection) => act(collection<T>(this.name)))
  }
}

/** A document as the application has it: JSON and arrays are parsed, once the table's definition is known. */
function fromWire<T>(columns: Columns, table: TableDefinition | undefined): T {
  const document: Record<string, unknown> = { ...columns }
  for (const name of Object.keys(document)) if (isStateName(name)) delete document[name]
  for (const name of table?.json ?? []) {
    const value = document[name]
    if (typeof value === 'string') document[name] = JSON.parse(value)
  }
  return document as T
}

/** Columns as the wire has them, without what is undefined. */
function toWire(columns: object, table: TableDefinition | undefined): Columns {
  const wire: Columns = {}
  for (const [name, value] of Object.entries(columns) as [string, unknown][]) {
    if (value === undefined) continue
    const isJson = table?.json.has(name) ?? (typeof value === 'object' && !(value instanceof Uint8Array))
    wire[name] = isJson && value !== null ? JSON.stringify(value) : (value as SyncValue)
  }
  return wire
}
