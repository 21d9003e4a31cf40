/** What a device answers to a server that follows a script, frame by frame. */

import { afterEach, describe, expect, test } from 'vitest'
import { pack, unpack, type Packable } from '../src/msgpack.js'
import type { SocketConstructor } from '../src/live.js'
import { Device } from '../src/sync/device.js'
import { decodeRaw, encodeRaw, KINDS, type Kind } from '../src/sync/frames.js'
import { MemoryStore } from '../src/sync/store.js'

const cursor = (lsn: number): string => `${lsn}@9c1e04d7`

const LIMITS = {
  max_frame_bytes: 1 << 20, max_mutation_bytes: 1 << 18, max_push_mutations: 3, max_in_flight: 5, max_shapes: 9,
  max_presence_bytes: 4096, max_presence_channels: 9, ping_interval_ms: 20_000, idle_timeout_ms: 60_000, max_clock_drift_ms: 60_000,
}

interface Heard {
  kind: Kind
  body: Record<string, unknown>
}

/** The server's end of the connections of one device. */
class Script {
  readonly heard: Heard[] = []
  socket: { onmessage: ((event: { data: unknown }) => void) | null; onclose: ((event: unknown) => void) | null } | undefined
  connections = 0
  nextSeq = 1

  readonly webSocket: SocketConstructor

  constructor() {
    // eslint-disable-next-line @typescript-eslint/no-this-alias
    const script = this
    this.webSocket = class {
      onopen: (() => void) | null = null
      onmessage: ((event: { data: unknown }) => void) | null = null
      onclose: ((event: unknown) => void) | null = null
      onerror: (() => void) | null = null
      constructor() {
        script.socket = this
        script.connections += 1
        queueMicrotask(() => this.onopen?.())
      }
      send(data: Uint8Array): void {
        const { kind, body } = decodeRaw(data)
        script.hear({ kind, body: unpack(body) as Record<string, unknown> })
      }
      close(): void {
        if (script.socket === this) script.socket = undefined
        const { onclose } = this
        this.onclose = null
        queueMicrotask(() => onclose?.({}))
      }
    } as unknown as SocketConstructor
  }

  hear(frame: Heard): void {
    this.heard.push(frame)
    if (frame.kind !== 'handshake') return
    this.say('handshakeAck', {
      accepted: {
        protocol: 1, session: 's', user: 'ann', cursor: cursor(10), server_ms: 0, next_seq: this.nextSeq,
        catalog_version: 1, catalog_hash: '0000000000000000', limits: LIMITS,
      },
    })
  }

  say(kind: Kind, body: unknown): void {
    this.socket?.onmessage?.({ data: encodeRaw(KINDS[kind], pack(body as Packable)) })
  }

  all(kind: Kind): Record<string, unknown>[] {
    return this.heard.filter((frame) => frame.kind === kind).map(({ body }) => body)
  }

  /** Seqs of the pushes so far, a list for each. */
  pushes(): number[][] {
    return this.all('push').map(({ mutations }) => {
      let last = 0
      return (mutations as { seq?: number }[]).map(({ seq }) => (last = seq ?? last + 1))
    })
  }
}

describe('a scripted server', () => {
  let device: Device | undefined
  afterEach(() => device?.close())

  async function start(script: Script, writes = 0): Promise<Device> {
    device = await Device.open({ name: 'scripted', store: new MemoryStore(), webSocket: script.webSocket })
    for (let n = 0; n < writes; n++) await device.collection('t').put({ id: n })
    device.connect({ url: 'http://script' })
    await device.when(({ state }) => state === 'online')
    return device
  }

  const verdicts = (script: Script, list: unknown[]): void => {
    const { producer, generation } = script.all('push')[0] as Record<string, unknown>
    script.say('ack', { producer, generation, verdicts: list })
  }
  const soon = { timeout: 5000, interval: 2 }

  test('g9_pushes_keep_the_limits_and_what_is_to_be_tried_again_comes_again_in_order', async () => {
    const script = new Script()
    const one = await start(script, 8)
    expect(script.pushes()).toEqual([[1, 2, 3], [4, 5]])
    verdicts(script, [{ seq: 1, applied: 11 }, { seq: 2, retry: { after_ms: 30, reason: 'overload' } }, { seq: 3, gap: 2 }])
    await expect.poll(() => one.status.throttledUntilMs, soon).toBeDefined()
    expect(script.pushes()).toHaveLength(2)
    await expect.poll(() => script.pushes().slice(2), soon).toEqual([[2, 3, 4], [5, 6]])
    verdicts(script, [2, 3, 4, 5, 6].map((seq) => ({ seq, applied: 10 + seq })))
    await expect.poll(() => script.pushes().slice(4), soon).toEqual([[7, 8]])
    verdicts(script, [{ seq: 7, gap: 7 }])
    await expect.poll(() => script.pushes().slice(5), soon).toEqual([[7, 8]])
    expect(one.status.pending).toBe(2)
  })

  test('g9_a_server_that_has_lost_its_history_is_met_with_another_producer', async () => {
    const script = new Script()
    const one = await start(script, 3)
    verdicts(script, [{ seq: 1, applied: 11 }, { seq: 2, applied: 12 }])
    await expect.poll(() => one.status.pending, soon).toBe(1)
    const before = one.replica.meta.producer
    verdicts(script, [{ seq: 3, gap: 1 }])
    await expect.poll(() => script.connections, soon).toBe(2)
    await expect.poll(() => script.all('push').length, soon).toBe(2)
    const again = script.all('push')[1] as { producer: Uint8Array; mutations: { seq: number; ops: unknown }[] }
    expect(again.producer).not.toEqual(before)
    expect(again.mutations).toMatchObject([{ seq: 1, ops: [{ in: 't', id: [2] }] }])
  })

  test('g9_a_copy_pushes_what_it_had_under_its_name_and_the_rest_under_another', async () => {
    const script = new Script()
    script.nextSeq = 9
    const one = await start(script, 2)
    await expect.poll(() => one.replica.meta.heldFrom, soon).toBe(3)
    await one.collection('t').put({ id: 'new' })
    expect(script.pushes()).toEqual([[1, 2]])
    script.nextSeq = 1
    verdicts(script, [{ seq: 1, duplicate: 3 }, { seq: 2, duplicate: 4 }])
    await expect.poll(() => script.pushes(), soon).toEqual([[1, 2], [1]])
    const [first, second] = script.all('push') as { producer: Uint8Array; mutations: { ops: unknown[] }[] }[]
    expect(second?.producer).not.toEqual(first?.producer)
    expect(second?.mutations[0]?.ops).toMatchObject([{ id: ['new'] }])
  })

  test('g9_who_is_taken_over_again_and_again_steps_back_and_comes_when_asked', async () => {
    const script = new Script()
    const one = await start(script)
    for (const connections of [2, 3]) {
      script.say('error', { code: 'taken_over', message: 'the device has connected again', closing: true })
      await expect.poll(() => script.connections, soon).toBe(connections)
      await one.when(({ state }) => state === 'online')
    }
    script.say('error', { code: 'taken_over', message: 'the device has connected again', closing: true })
    expect((await one.when(({ state }) => state === 'elsewhere')).error?.code).toBe('taken_over')
    await one.collection('t').put({ id: 'meanwhile' })
    expect(script.connections).toBe(3)
    one.retryNow()
    await one.when(({ state }) => state === 'online')
    await expect.poll(() => script.pushes(), soon).toEqual([[1]])
    expect(script.connections).toBe(4)
  })

  test('g9_definitions_that_hash_to_something_else_are_asked_for_once', async () => {
    const script = new Script()
    const one = await start(script)
    const definition = {
      cursor: cursor(11), catalog_version: 2, type: 'table', name: 't', action: 'put', sql: '',
      payload: '{"columns":[{"name":"k","pg_type":"text"},{"name":"j","pg_type":"jsonb"}],"key":[0],"conflict":"hlc"}',
    }
    for (const _ of [1, 2]) script.say('definition', { ...definition, hash: '0000000000000001' })
    await expect.poll(() => script.all('resync'), soon).toEqual([{ reason: 'catalog_diverged', definitions: true }])
    const hash = one.replica.meta.catalogHash
    script.say('definition', { ...definition, hash, set: [0, 1] })
    await expect.poll(() => one.replica.meta.cursor === undefined && one.replica.table('t') !== undefined, soon).toBe(true)
    expect(one.keyColumns('t')).toEqual(['k'])
    await one.collection('t').put({ k: 'a', j: { b: [1] } as never })
    await expect.poll(() => script.all('push').length, soon).toBe(1)
    expect(script.all('push')[0]).toMatchObject({ mutations: [{ hlc: expect.anything(), ops: [{ id: ['a'], insert: { k: 'a', j: '{"b":[1]}' } }] }] })
    expect(one.collection('t').get('a')).toEqual({ k: 'a', j: { b: [1] } })
    expect(script.all('resync')).toHaveLength(1)
  })

  test('g9_what_is_durable_is_said_after_the_last_verdict', async () => {
    const script = new Script()
    await start(script, 3)
    verdicts(script, [{ seq: 1, applied: 11 }, { seq: 2, applied: 12 }])
    verdicts(script, [{ seq: 3, applied: 13 }])
    await expect.poll(() => script.all('ack').at(-1), soon).toMatchObject({ settled: [{ generation: 1, seq: 3 }] })
    expect(script.all('ack').length).toBe(1)
  })
})
