/**
 * Who else is there, and what they are doing: never stored, gone with the connection. Of several tabs
 * one has the connection; the others say to it what they show and whom they watch, and hear from it.
 */

import { nowMs } from './clock.js'
import type { PresenceMember } from './messages.js'
import type { Session } from './session.js'
import { randomId, toHex } from './values.js'

export interface Member {
  device: string
  user: string
  /** What the member says of itself. */
  state: unknown
  /** Whether it is this device. */
  isOwn: boolean
}

/** What a tab says to the one that has the connection. */
export interface TabPresence {
  tab: string
  /** What it shows, by channel, as JSON. */
  own: [string, string][]
  watched: string[]
}

/** The way to the other tabs. */
export interface Relay {
  leads(): boolean
  /** To the tab that leads. */
  say(presence: TabPresence): void
  /** From the tab that leads. */
  show(channel: string, members: Member[]): void
}

/** Another tab that has not said for so long what it shows is gone. */
const TAB_GONE_MS = 60_000

export class Presence {
  readonly #channels = new Map<string, Map<string, Member>>()
  readonly #own = new Map<string, string>()
  readonly #watching = new Map<string, Set<(members: Member[]) => void>>()
  readonly #tab = toHex(randomId())
  /** What the other tabs have said, and when; only where this one leads. */
  readonly #tabs = new Map<string, TabPresence & { saidMs: number }>()

  constructor(
    private readonly session: () => Session | undefined,
    private readonly device: Uint8Array,
    private readonly relay: Relay,
  ) {}

  /** Says `state` (anything that is JSON) in `channel`, until `leave` or the connection ends. */
  set(channel: string, state: unknown): void {
    const text = JSON.stringify(state)
    this.#own.set(channel, text)
    if (this.relay.leads()) this.session()?.setPresence(channel, text)
    else this.repeat()
  }

  leave(channel: string): void {
    this.#own.delete(channel)
    if (this.relay.leads()) this.#showWhatIsLeft(channel)
    else this.repeat()
  }

  /** Calls `listener` with who is in `channel` whenever that changes; returns how to stop. */
  watch(channel: string, listener: (members: Member[]) => void): () => void {
    const listeners = this.#watching.get(channel) ?? new Set()
    this.#watching.set(channel, listeners.add(listener))
    listener(this.members(channel))
    if (this.relay.leads()) this.session()?.askPresence(channel)
    else this.repeat()
    return () => {
      listeners.delete(listener)
      if (listeners.size === 0) this.#watching.delete(channel)
    }
  }

  members(channel: string): Member[] {
    return [...(this.#channels.get(channel)?.values() ?? [])]
  }

  /** @internal Says to the tab that leads what this one shows and watches. */
  repeat(): void {
    this.relay.say({ tab: this.#tab, own: [...this.#own], watched: [...this.#watching.keys()] })
  }

  /** @internal This tab goes. */
  end(): void {
    if (!this.relay.leads()) this.relay.say({ tab: this.#tab, own: [], watched: [] })
  }

  /** @internal Another tab has said what it shows and watches; of two that show something, the last counts. */
  hear(said: TabPresence): void {
    const before = new Map(this.#tabs.get(said.tab)?.own)
    const watched = this.#watched()
    if (said.own.length + said.watched.length === 0) this.#tabs.delete(said.tab)
    else this.#tabs.set(said.tab, { ...said, saidMs: nowMs() })
    for (const [channel, state] of said.own) {
      if (before.get(channel) !== state) this.session()?.setPresence(channel, state)
      before.delete(channel)
    }
    for (const channel of before.keys()) this.#showWhatIsLeft(channel)
    for (const channel of said.watched) {
      if (!watched.has(channel)) this.session()?.askPresence(channel)
      else this.relay.show(channel, this.members(channel))
    }
  }

  /** @internal The tab that leads says who is in a channel. */
  follow(channel: string, members: Member[]): void {
    this.#channels.set(channel, new Map(members.map((member) => [member.device, member])))
    this.#tellHere(channel)
  }

  /** @internal A session has begun, or goes on: says again what was said, asks again what was asked. */
  announce(): void {
    for (const [tab, { saidMs }] of this.#tabs) if (nowMs() - saidMs > TAB_GONE_MS) this.#tabs.delete(tab)
    const states = new Map([...[...this.#tabs.values()].flatMap(({ own }) => own), ...this.#own])
    for (const [channel, state] of states) this.session()?.setPresence(channel, state)
    for (const channel of this.#watched()) this.session()?.askPresence(channel)
  }

  /** What anybody here still shows in a channel, or nothing. */
  #showWhatIsLeft(channel: string): void {
    const others = [...this.#tabs.values()].flatMap(({ own }) => own).filter(([name]) => name === channel)
    const left = this.#own.get(channel) ?? others.at(-1)?.[1]
    if (left === undefined) this.session()?.leavePresence(channel)
    else this.session()?.setPresence(channel, left)
  }

  /** Channels that any tab watches. */
  #watched(): Set<string> {
    return new Set([...this.#watching.keys(), ...[...this.#tabs.values()].flatMap(({ watched }) => watched)])
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
    this.#tellHere(channel)
    if (this.relay.leads()) this.relay.show(channel, this.members(channel))
  }

  #tellHere(channel: string): void {
    for (const listener of this.#watching.get(channel) ?? []) listener(this.members(channel))
  }
}
