import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { crc32c } from '../src/crc32c.js'
import { DamagedMessage, pack, unpack, type Packable } from '../src/msgpack.js'

const bytes = (hex: string): Uint8Array => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16))
const hex = (value: Uint8Array): string => Buffer.from(value).toString('hex')

describe('crc32c', () => {
  test('is that of RFC 3720', () => {
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa)
    expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43)
    expect(crc32c(new TextEncoder().encode('123456789'))).toBe(0xe3069283)
  })

  test('goes on from a seed', () => {
    fc.assert(
      fc.property(fc.uint8Array(), fc.uint8Array(), (a, b) => {
        expect(crc32c(b, crc32c(a))).toBe(crc32c(Uint8Array.of(...a, ...b)))
      }),
    )
  })
})

describe('MessagePack', () => {
  const golden: [Packable, string][] = [
    [null, 'c0'],
    [true, 'c3'],
    [0, '00'],
    [127, '7f'],
    [128, 'cc80'],
    [65535, 'cdffff'],
    [65536, 'ce00010000'],
    [2 ** 32, 'cf0000000100000000'],
    [-1, 'ff'],
    [-33, 'd0df'],
    [-129, 'd1ff7f'],
    [-32769, 'd2ffff7fff'],
    [-(2 ** 31) - 1, 'd3ffffffff7fffffff'],
    [1.5, 'cb3ff8000000000000'],
    [-0, 'cb8000000000000000'],
    ['épée', 'a6c3a970c3a965'],
    [Uint8Array.of(0, 255), 'c40200ff'],
    [[1, 'a'], '9201a161'],
    [{ a: 1 }, '81a16101'],
  ]
  test.each(golden)('%j is as the specification draws it', (value, expected) => {
    expect(hex(pack(value))).toBe(expected)
    expect(unpack(bytes(expected))).toEqual(value)
  })

  const packable: fc.Arbitrary<Packable> = fc.letrec<{ value: Packable }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      fc.constant(null),
      fc.boolean(),
      fc.integer(),
      fc.maxSafeInteger(),
      fc.double({ noNaN: true }).filter((value) => !Number.isInteger(value) || Number.isSafeInteger(value)),
      fc.string({ unit: 'grapheme' }),
      fc.uint8Array(),
      fc.array(tie('value')),
      fc.dictionary(fc.string(), tie('value')).map((members) => ({ ...members })),
    ),
  })).value

  test('what is written is read', () => {
    fc.assert(
      fc.property(packable, (value) => {
        expect(unpack(pack(value))).toEqual(value)
      }),
    )
  })

  test('integers of 64 bits stay exact', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(1n << 63n), max: (1n << 64n) - 1n }), (value) => {
        expect(BigInt(unpack(pack(value)) as bigint)).toBe(value)
      }),
    )
  })

  test('bytes that are no message are refused, whatever they are', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (value) => {
        try {
          unpack(value)
        } catch (error) {
          expect(error).toBeInstanceOf(DamagedMessage)
        }
      }),
    )
  })

  test('a length is not believed', () => {
    for (const lie of ['dfffffffff', 'ddffffffff', 'dbffffffff', 'c6ffffffff']) {
      expect(() => unpack(bytes(lie))).toThrow(DamagedMessage)
    }
    expect(() => unpack(bytes('91'.repeat(100) + 'c0'))).toThrow('nested deeper')
  })
})
