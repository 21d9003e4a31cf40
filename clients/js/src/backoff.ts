/**
 * Waiting before another try: exponential with full jitter, so that many clients of a server that
 * comes back do not come back at once.
 */

export class Backoff {
  #tries = 0

  /** `firstMs` bounds the first wait, `mostMs` every one. */
  constructor(
    private readonly firstMs = 250,
    private readonly mostMs = 30_000,
    private readonly random: () => number = Math.random,
  ) {}

  /** Something succeeded: the next wait is short again. */
  reset(): void {
    this.#tries = 0
  }

  /** How long to wait now, in milliseconds; at least `leastMs`, what the server asked for. */
  nextMs(leastMs = 0): number {
    const bound = Math.min(this.mostMs, this.firstMs * 2 ** Math.min(this.#tries, 20))
    this.#tries += 1
    return Math.max(leastMs, Math.ceil(this.random() * bound))
  }
}

/** Resolves after `ms`, or as soon as `signal` aborts. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve()
    const done = (): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal?.addEventListener('abort', done, { once: true })
  })
}
