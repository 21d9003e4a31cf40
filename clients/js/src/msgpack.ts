/**
 * MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md), as much of it as the sync
 * protocol has: no extensions. Integers come as `number` where that is exact, else as `bigint`.
 * What is written is always the shortest form.
 */

export type Packable =
  | null
  | undefined
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | readonly Packable[]
  | { readonly [key: string]: Packable }

/** Bytes that are no MessagePack of ours. */
export class DamagedMessage extends Error {
  override readonly name = 'DamagedMessage'
}

const MAX_DEPTH = 16

const utf8Encoder = new TextEncoder()
const utf8Decoder = new TextDecoder('utf-8', { fatal: true })

class Writer {
  #bytes = new Uint8Array(256)
  #view = new DataView(this.#bytes.buffer)
  #length = 0

  room(count: number): number {
    const at = this.#length
    this.#length += count
    if (this.#length > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(this.#length, this.#bytes.length * 2))
      grown.set(this.#bytes.subarray(0, at))
      this.#bytes = grown
      this.#view = new DataView(grown.buffer)
    }
    return at
  }

  u8(value: number): void {
    const at = this.room(1)
    this.#view.setUint8(at, value)
  }

  /** `mark`, then `value` in `size` bytes. */
  sized(mark: number, size: 1 | 2 | 4, value: number): void {
    const at = this.room(1 + size)
    this.#view.setUint8(at, mark)
    if (size === 1) this.#view.setUint8(at + 1, value)
    else if (size === 2) this.#view.setUint16(at + 1, value)
    else this.#view.setUint32(at + 1, value)
  }

  wide(mark: number, value: bigint): void {
    const at = this.room(9)
    this.#view.setUint8(at, mark)
    this.#view.setBigUint64(at + 1, BigInt.asUintN(64, value))
  }

  float(value: number): void {
    const at = this.room(9)
    this.#view.setUint8(at, 0xcb)
    this.#view.setFloat64(at + 1, value)
  }

  raw(bytes: Uint8Array): void {
    const at = this.room(bytes.length)
    this.#bytes.set(bytes, at)
  }

  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length)
  }
}

/** `value` as bytes. Members that are `undefined` are left out. */
export function pack(value: Packable): Uint8Array {
  const writer = new Writer()
  write(writer, value, 0)
  return writer.finish()
}

function write(out: Writer, value: Packable, depth: number): void {
  if (depth > MAX_DEPTH) throw new RangeError(`nested deeper than ${MAX_DEPTH}`)
  if (value === null || value === undefined) out.u8(0xc0)
  else if (typeof value === 'boolean') out.u8(value ? 0xc3 : 0xc2)
  else if (typeof value === 'number') writeNumber(out, value)
  else if (typeof value === 'bigint') writeInteger(out, value)
  else if (typeof value === 'string') {
    const bytes = utf8Encoder.encode(value)
    writeLength(out, bytes.length, 0xa0, 31, [0xd9, 0xda, 0xdb])
    out.raw(bytes)
  } else if (value instanceof Uint8Array) {
    writeLength(out, value.length, 0, -1, [0xc4, 0xc5, 0xc6])
    out.raw(value)
  } else if (Array.isArray(value)) {
    writeLength(out, value.length, 0x90, 15, [undefined, 0xdc, 0xdd])
    for (const item of value as readonly Packable[]) write(out, item, depth + 1)
  } else {
    const members = Object.entries(value).filter(([, member]) => member !== undefined)
    writeLength(out, members.length, 0x80, 15, [undefined, 0xde, 0xdf])
    for (const [name, member] of members) {
      write(out, name, depth + 1)
      write(out, member, depth + 1)
    }
  }
}

function writeLength(
  out: Writer,
  length: number,
  fixed: number,
  fixedMost: number,
  [one, two, four]: readonly [number | undefined, number, number],
): void {
  if (length <= fixedMost) out.u8(fixed | length)
  else if (one !== undefined && length < 0x100) out.sized(one, 1, length)
  else if (length < 0x10000) out.sized(two, 2, length)
  else out.sized(four, 4, length)
}

/** Whole numbers that are exact are integers; -0 and all else are reals. */
function writeNumber(out: Writer, value: number): void {
  if (Number.isSafeInteger(value) && !Object.is(value, -0)) writeInteger(out, BigInt(value))
  else out.float(value)
}

function writeInteger(out: Writer, value: bigint): void {
  if (value >= 0n) {
    if (value < 0x80n) out.u8(Number(value))
    else if (value < 0x100n) out.sized(0xcc, 1, Number(value))
    else if (value < 0x10000n) out.sized(0xcd, 2, Number(value))
    else if (value < 0x100000000n) out.sized(0xce, 4, Number(value))
    else if (value < 1n << 64n) out.wide(0xcf, value)
    else throw new RangeError(`${value} does not fit in 64 bits`)
  } else if (value >= -32n) out.u8(Number(value) & 0xff)
  else if (value >= -0x80n) out.sized(0xd0, 1, Number(value) & 0xff)
  else if (value >= -0x8000n) out.sized(0xd1, 2, Number(value) & 0xffff)
  else if (value >= -0x80000000n) out.sized(0xd2, 4, Number(value) >>> 0)
  else if (value >= -(1n << 63n)) out.wide(0xd3, value)
  else throw new RangeError(`${value} does not fit in 64 bits`)
}

/** The one value that `bytes` are; throws `DamagedMessage` for anything else. */
export function unpack(bytes: Uint8Array): unknown {
  const reader = new Reader(bytes)
  const value = reader.value(0)
  if (reader.left !== 0) throw new DamagedMessage(`${reader.left} bytes too many`)
  return value
}

class Reader {
  #at = 0
  readonly #view: DataView

  constructor(private readonly bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  get left(): number {
    return this.bytes.length - this.#at
  }

  value(depth: number): unknown {
    if (depth > MAX_DEPTH) throw new DamagedMessage(`nested deeper than ${MAX_DEPTH}`)
    const mark = this.#take(1, (at) => this.#view.getUint8(at))
    if (mark < 0x80) return mark
    if (mark < 0x90) return this.#map(mark & 0x0f, depth)
    if (mark < 0xa0) return this.#array(mark & 0x0f, depth)
    if (mark < 0xc0) return this.#text(mark & 0x1f)
    if (mark >= 0xe0) return mark - 0x100
    return this.#marked(mark, depth)
  }

  #marked(mark: number, depth: number): unknown {
    switch (mark) {
      case 0xc0: return null
      case 0xc2: return false
      case 0xc3: return true
      case 0xc4: return this.#bin(this.#unsigned(1))
      case 0xc5: return this.#bin(this.#unsigned(2))
      case 0xc6: return this.#bin(this.#unsigned(4))
      case 0xca: return this.#take(4, (at) => this.#view.getFloat32(at))
      case 0xcb: return this.#take(8, (at) => this.#view.getFloat64(at))
      case 0xcc: return this.#unsigned(1)
      case 0xcd: return this.#unsigned(2)
      case 0xce: return this.#unsigned(4)
      case 0xcf: return exact(this.#take(8, (at) => this.#view.getBigUint64(at)))
      case 0xd0: return this.#take(1, (at) => this.#view.getInt8(at))
      case 0xd1: return this.#take(2, (at) => this.#view.getInt16(at))
      case 0xd2: return this.#take(4, (at) => this.#view.getInt32(at))
      case 0xd3: return exact(this.#take(8, (at) => this.#view.getBigInt64(at)))
      case 0xd9: return this.#text(this.#unsigned(1))
      case 0xda: return this.#text(this.#unsigned(2))
      case 0xdb: return this.#text(this.#unsigned(4))
      case 0xdc: return this.#array(this.#unsigned(2), depth)
      case 0xdd: return this.#array(this.#unsigned(4), depth)
      case 0xde: return this.#map(this.#unsigned(2), depth)
      case 0xdf: return this.#map(this.#unsigned(4), depth)
      default: throw new DamagedMessage(`there is no 0x${mark.toString(16)} here`)
    }
  }

  #take<V>(count: number, read: (at: number) => V): V {
    if (this.left < count) throw new DamagedMessage('it ends too early')
    const at = this.#at
    this.#at += count
    return read(at)
  }

  #unsigned(size: 1 | 2 | 4): number {
    return this.#take(size, (at) => {
      if (size === 1) return this.#view.getUint8(at)
      return size === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at)
    })
  }

  #bin(length: number): Uint8Array {
    return this.#take(length, (at) => this.bytes.slice(at, at + length))
  }

  #text(length: number): string {
    return this.#take(length, (at) => {
      try {
        return utf8Decoder.decode(this.bytes.subarray(at, at + length))
      } catch {
        throw new DamagedMessage('a text is no UTF-8')
      }
    })
  }

  /** A count is believed no further than there are bytes: each item takes one at least. */
  #array(count: number, depth: number): unknown[] {
    if (count > this.left) throw new DamagedMessage('it ends too early')
    const items: unknown[] = []
    for (let i = 0; i < count; i++) items.push(this.value(depth + 1))
    return items
  }

  #map(count: number, depth: number): Record<string, unknown> {
    if (count * 2 > this.left) throw new DamagedMessage('it ends too early')
    const members: [string, unknown][] = []
    const names = new Set<string>()
    for (let i = 0; i < count; i++) {
      const name = this.value(depth + 1)
      if (typeof name !== 'string') throw new DamagedMessage('a name is no text')
      if (names.has(name)) throw new DamagedMessage(`${name} is there twice`)
      names.add(name)
      members.push([name, this.value(depth + 1)])
    }
    return Object.fromEntries(members)
  }
}

function exact(value: bigint): number | bigint {
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : value
}
