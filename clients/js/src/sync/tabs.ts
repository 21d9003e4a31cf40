/**
 * Tabs of one origin that have the same device open: one of them leads (it has the connection), all
 * of them write, and each tells the others of its batches. Without Web Locks or BroadcastChannel a
 * device has one tab, which leads.
 */

import type { Member, TabPresence } from './presence.js'
import type { Batch } from './store.js'

/** What the tab that leads says of the connection. */
export interface Connection {
  state: 'alone' | 'offline' | 'connecting' | 'online' | 'elsewhere' | 'refused'
  throttledUntilMs: number | undefined
  clockOffsetMs: number
  error: { code: string; message: string; hint?: string } | undefined
}

type Message =
  | { version: number; batch: Batch }
  | { connection: Connection }
  | { question: true }
  | { wake: true }
  | { presence: TabPresence }
  | { channel: string; members: Member[] }

export interface TabEvents {
  /** Another tab has written a batch. */
  batch(version: number, batch: Batch): void
  /** The leader says how the connection is. */
  connection(connection: Connection): void
  /** Another tab asks how the connection is. */
  question(): void
  /** Another tab wants a connection now. */
  wake(): void
  /** Another tab says what it shows and whom it watches. */
  presence(said: TabPresence): void
  /** The leader says who is in a channel. */
  members(channel: string, members: Member[]): void
}

export class Tabs {
  readonly #name: string
  readonly #channel: BroadcastChannel | undefined

  constructor(name: string) {
    this.#name = `springhead:${name}`
    // Node has one too; there it would keep the process alive, and devices there have no tabs.
    const isBrowser = typeof (globalThis as { document?: unknown }).document !== 'undefined'
    if (isBrowser && typeof BroadcastChannel !== 'undefined') this.#channel = new BroadcastChannel(this.#name)
  }

  listen(events: TabEvents): void {
    if (this.#channel === undefined) return
    this.#channel.onmessage = ({ data }: MessageEvent<Message>) => {
      if ('batch' in data) events.batch(data.version, data.batch)
      else if ('connection' in data) events.connection(data.connection)
      else if ('wake' in data) events.wake()
      else if ('presence' in data) events.presence(data.presence)
      else if ('members' in data) events.members(data.channel, data.members)
      else events.question()
    }
    this.#post({ question: true })
  }

  /** Tells other tabs of a batch that is durable. */
  announce(version: number, batch: Batch): void {
    this.#post({ version, batch })
  }

  /** The leader tells the others how the connection is. */
  tell(connection: Connection): void {
    this.#post({ connection })
  }

  /** Asks the leader to connect now. */
  wake(): void {
    this.#post({ wake: true })
  }

  /** Says to the leader what this tab shows and whom it watches. */
  sayPresence(presence: TabPresence): void {
    this.#post({ presence })
  }

  /** The leader says who is in a channel. */
  showMembers(channel: string, members: Member[]): void {
    this.#post({ channel, members })
  }

  #post(message: Message): void {
    this.#channel?.postMessage(message)
  }

  /** Runs `act` once this tab leads, which may be at once or never. */
  async lead(signal: AbortSignal, act: () => Promise<void>): Promise<void> {
    const locks = this.#channel && (globalThis as { navigator?: Navigator }).navigator?.locks
    if (!locks) return act()
    const isFree = await locks.request(this.#name, { ifAvailable: true }, async (lock) => {
      if (lock) await act()
      return lock !== null
    })
    if (isFree || signal.aborted) return
    await locks.request(this.#name, { signal }, act).catch((error: unknown) => {
      if (!signal.aborted) throw error
    })
  }

  close(): void {
    this.#channel?.close()
  }
}
