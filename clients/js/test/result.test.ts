import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Result, type Delta } from '../src/result.js'

const columns = [{ name: 'n', type: 'integer' }]

/** What the server would send for going from one ordered result to the next; keys are the values. */
function difference(before: number[], after: number[]): Delta {
  const left = [...before]
  const added = after.flatMap((n, position) => {
    const at = left.indexOf(n)
    if (at < 0) return [{ key: String(n), row: [n], position }]
    left.splice(at, 1)
    return []
  })
  return { cursor: '1', added, changed: [], removed: left.map((n) => ({ key: String(n) })) }
}

test('g8_an_ordered_result_follows_its_deltas_whatever_keys_are_equal', () => {
  const sorted = fc.array(fc.nat(9)).map((numbers) => numbers.sort((a, b) => a - b))
  fc.assert(
    fc.property(sorted, fc.array(sorted), (first, others) => {
      const result = new Result()
      result.snapshot({ columns, keys: first.map(String), rows: first.map((n) => [n]) })
      result.setReady({ cursor: '0' })
      let before = first
      for (const after of others) {
        result.apply(difference(before, after))
        expect(result.rows().map((row) => row['n'])).toEqual(after)
        before = after
      }
    }),
  )
})

test('g8_a_result_without_an_order_keeps_a_changed_row_in_its_place', () => {
  const result = new Result()
  result.snapshot({ columns, keys: ['a', 'b'], rows: [[1], [2]] })
  result.setReady({ cursor: '0' })
  result.apply({
    cursor: '1',
    added: [{ key: 'c', row: [3] }],
    changed: [{ key: 'a', row: [9] }],
    removed: [{ key: 'b' }],
  })
  expect(result.rows()).toEqual([{ n: 9 }, { n: 3 }])
  expect(result.resumable).toBe('1')
})
