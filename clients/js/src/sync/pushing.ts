/**
 * What of the queue goes to the server when: in the order of the seqs, within the server's limits, again
 * where it asks for that. Of one session.
 */

import { nowMs } from './clock.js'
import { encode } from './frames.js'
import type { DeviceFrames, Limits, WireMutation } from './messages.js'
import type { Pending, Replica } from './replica.js'

type Push = DeviceFrames['push']

/** After so many verdicts the server is told that they are durable here. */
const VERDICTS_PER_ACK = 100

export class Pushing {
  /** Mutations up to this seq are on their way or decided. */
  #sentUpTo = 0
  /** Those of them whose verdict has not come. */
  readonly #unanswered = new Set<number>()
  /** Verdicts since the server was last told that they are durable. */
  #verdicts = 0
  #limits: Limits | undefined
  #pausedUntilMs = 0
  #pauseTimer: ReturnType<typeof setTimeout> | undefined

  constructor(
    private readonly replica: Replica,
    private readonly send: (push: Push) => void,
    private readonly throttled: (untilMs: number) => void,
  ) {}

  /** Pushes what is pending and has not been pushed, as far as `limits` let. */
  push(limits: Limits): void {
    this.#limits = limits
    if (nowMs() < this.#pausedUntilMs) return
    const { nextSeq, heldFrom = nextSeq } = this.replica.meta
    let batch: Pending[] = []
    let bytes = 0
    let seq = this.#sentUpTo === 0 ? this.replica.firstUndecided() : this.#sentUpTo + 1
    for (; seq < heldFrom && this.#unanswered.size < limits.max_in_flight; seq++) {
      const mutation = this.replica.pending.get(seq)
      this.#sentUpTo = seq
      if (mutation === undefined || mutation.appliedLsn !== undefined) continue
      const size = encode('push', this.#frame([mutation])).length
      if (batch.length > 0 && (batch.length >= limits.max_push_mutations || bytes + size > limits.max_frame_bytes)) {
        this.send(this.#frame(batch))
        batch = []
        bytes = 0
      }
      batch.push(mutation)
      bytes += size
      this.#unanswered.add(seq)
    }
    if (batch.length > 0) this.send(this.#frame(batch))
  }

  #frame(mutations: Pending[]): Push {
    const { producer, generation } = this.replica.meta
    const base = mutations[0]?.base ?? '0'
    const schema = mutations[0]?.schema ?? 0
    // A seq that follows is left out, and a clock is what it is more than the one before it.
    let due = 0
    let clock = 0n
    const wire = (mutation: Pending): WireMutation => {
      const follows = mutation.seq === due
      const hlc = mutation.hlc - clock
      due = mutation.seq + 1
      clock = mutation.hlc
      return {
        ...(follows ? {} : { seq: mutation.seq }),
        ...(mutation.base === base ? {} : { base: mutation.base }),
        ...(mutation.schema === schema ? {} : { schema: mutation.schema }),
        ...(mutation.after.length === 0 ? {} : { after: mutation.after }),
        hlc,
        ops: mutation.operations,
      }
    }
    return { producer, generation, base, schema, mutations: mutations.map(wire) }
  }

  /** A verdict has come, whichever. */
  answered(seq: number): void {
    this.#unanswered.delete(seq)
    this.#verdicts += 1
  }

  /** Goes on from `expected`; whether that is decided long since here, so that the numbers mean nothing any more. */
  gap(expected: number): boolean {
    this.#sendAgainFrom(expected)
    return expected < this.replica.firstUndecided()
  }

  #sendAgainFrom(seq: number): void {
    this.#sentUpTo = Math.min(this.#sentUpTo, seq - 1)
    for (const sent of this.#unanswered) if (sent >= seq) this.#unanswered.delete(sent)
  }

  /** Pushes nothing for a while, then everything from `seq` on again, if it is given. */
  pause(afterMs: number, seq?: number): void {
    if (seq !== undefined) this.#sendAgainFrom(seq)
    const untilMs = nowMs() + afterMs
    if (untilMs <= this.#pausedUntilMs) return
    this.#pausedUntilMs = untilMs
    this.throttled(untilMs)
    clearTimeout(this.#pauseTimer)
    this.#pauseTimer = setTimeout(() => {
      this.#pausedUntilMs = 0
      if (this.#limits) this.push(this.#limits)
    }, afterMs)
  }

  /** Whether the server should hear what is durable: often enough, and when nothing is on its way. */
  get shouldAcknowledge(): boolean {
    return this.#verdicts >= VERDICTS_PER_ACK || (this.#verdicts > 0 && this.#unanswered.size === 0)
  }

  /** It has been told. */
  acknowledged(): void {
    this.#verdicts = 0
  }

  /** Nothing more goes out in this session. */
  end(): void {
    clearTimeout(this.#pauseTimer)
    this.#pausedUntilMs = Number.POSITIVE_INFINITY
  }
}
