import fc from 'fast-check'
import { expect, test } from 'vitest'
import { EventParser } from '../src/sse.js'

const STREAM =
  '\uFEFFretry: 1000\n\n: a comment\n\nid: 2@9c1e04d7\nevent: insert\ndata: {"a":\ndata: 1}\n\n' +
  'data:no space\r\n\r\nid: 3\rdata: cr\r\rid: must-refetch\nevent: must-refetch\ndata: {}\n\ndata: cut'

test('events are as the standard says', () => {
  expect(new EventParser().push(STREAM)).toEqual([
    { event: 'message', data: '', id: undefined, retryMs: 1000 },
    { event: 'insert', data: '{"a":\n1}', id: '2@9c1e04d7', retryMs: undefined },
    { event: 'message', data: 'no space', id: undefined, retryMs: undefined },
    { event: 'message', data: 'cr', id: '3', retryMs: undefined },
    { event: 'must-refetch', data: '{}', id: 'must-refetch', retryMs: undefined },
  ])
})

test('a stream may be cut anywhere', () => {
  const whole = new EventParser().push(STREAM)
  fc.assert(
    fc.property(fc.array(fc.nat(STREAM.length)), (cuts) => {
      const parser = new EventParser()
      const ends = [...cuts, STREAM.length].sort((a, b) => a - b)
      const found = ends.flatMap((end, at) => parser.push(STREAM.slice(at === 0 ? 0 : ends[at - 1], end)))
      expect(found).toEqual(whole)
    }),
  )
})
