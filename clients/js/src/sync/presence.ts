/** Who else is there, and what they are doing: never stored, gone with the connection. */

import type { PresenceMember } from './messages.js'
import type { Session } from './session.js'
import { toHex } from './values.js'

export interface Member {
  device: string
  user: string
  /** What the member says of itself. */
  state: unknown
  /** Whether it is this device. */
  isOwn: boolean
}

export class Presence {
  readonly #channels = new Map<string, Map<string, Member>>()
  readonly #own = new Map<string, string>()
  readonly #watching = new Map<string, Set<(members: Member[]) => void>>()

  constructor(
    private readonly session: () => Session | undefined,
    private readonly device: Uint8Array,
  ) {}

  /** Says `state` (anything that is JSON) in `channel`, until `leave` or the connection ends. */
  set(channel: string, state: unknown): void {
    const text = JSON.stringify(state)
    this.#own.set(channel, text)
    this.session()?.setPresence(channel, text)
  }

  leave(channel: string): void {
    this.#own.delete(channel)
    this.session()?.leavePresence(channel)
  }

  /** Calls `listener` with who is in `channel` whenever that changes; returns how to stop. */
  watch(channel: string, listener: (members: Member[]) => void): () => void {
    const listeners = this.#watching.get(channel) ?? new Set()
    this.#watching.set(channel, listeners.add(listener))
    listener(this.members(channel))
    this.session()?.askPresence(channel)
    return () => {
      listeners.delete(listener)
      if (listeners.size === 0) this.#watching.delete(channel)
    }
  }

  members(channel: string): Member[] {
    return [...(this.#channels.get(channel)?.values() ?? [])]
  }

  /** @internal A session has begun: says again what was said, asks again what was asked. */
  announce(): void {
    for (const [channel, state] of this.#own) this.session()?.setPresence(channel, state)
    for (const channel of this.#watching.keys()) this.session()?.askPresence(channel)
  }

  /** @internal */
  take(members: PresenceMember[], left: { channel: string; device: Uint8Array } | undefined, isRoster: boolean): void {
    if (left && isRoster) this.#channels.delete(left.channel)
    else if (left) this.#channels.get(left.channel)?.delete(toHex(left.device))
    for (const { channel, device, user, state } of members) {
      const all = this.#channels.get(channel) ?? new Map<string, Member>()
      const id = toHex(device)
      all.set(id, { device: id, user, state: JSON.parse(state) as unknown, isOwn: id === toHex(this.device) })
      this.#channels.set(channel, all)
    }
    const changed = new Set([...members.map(({ channel }) => channel), ...(left ? [left.channel] : [])])
    for (const channel of changed) this.#tell(channel)
  }

  /** @internal The session has ended: nobody is there as far as one can tell. */
  clear(): void {
    const channels = [...this.#channels.keys()]
    this.#channels.clear()
    for (const channel of channels) this.#tell(channel)
  }

  #tell(channel: string): void {
    for (const listener of this.#watching.get(channel) ?? []) listener(this.members(channel))
  }
}
