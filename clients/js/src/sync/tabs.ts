/**
 * Tabs of one origin that have the same device open: one of them leads (it has the connection), all
 * of them write, and each tells the others of its batches. Without Web Locks or BroadcastChannel a
 * device has one tab, which leads.
 */

import type { Batch } from './store.js'

type Message = { version: number; batch: Batch }

export class Tabs {
  readonly #name: string
  readonly #channel: BroadcastChannel | undefined

  constructor(name: string) {
    this.#name = `springhead:${name}`
    // Node has one too; there it would keep the process alive, and devices there have no tabs.
    const isBrowser = typeof (globalThis as { document?: unknown }).document !== 'undefined'
    if (isBrowser && typeof BroadcastChannel !== 'undefined') this.#channel = new BroadcastChannel(this.#name)
  }

  /** Tells other tabs of a batch that is durable. */
  announce(version: number, batch: Batch): void {
    this.#channel?.postMessage({ version, batch } satisfies Message)
  }

  onBatch(listener: (version: number, batch: Batch) => void): void {
    if (this.#channel) {
      this.#channel.onmessage = ({ data }: MessageEvent<Message>) => listener(data.version, data.batch)
    }
  }

  /** Runs `act` once this tab leads, which may be at once or never; `follow` says that it must wait. */
  async lead(signal: AbortSignal, act: () => Promise<void>, follow: () => void): Promise<void> {
    const locks = this.#channel && (globalThis as { navigator?: Navigator }).navigator?.locks
    if (!locks) return act()
    const isFree = await locks.request(this.#name, { ifAvailable: true }, async (lock) => {
      if (lock) await act()
      return lock !== null
    })
    if (isFree || signal.aborted) return
    follow()
    await locks.request(this.#name, { signal }, act).catch((error: unknown) => {
      if (!signal.aborted) throw error
    })
  }

  close(): void {
    this.#channel?.close()
  }
}
