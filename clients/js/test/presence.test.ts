/** Presence of a device that is open in several tabs: whichever has the connection, they are one member. */

import { afterEach, describe, expect, test, vi } from 'vitest'
import { Presence, type Member, type TabPresence } from '../src/sync/presence.js'
import type { Session } from '../src/sync/session.js'

const OWN = new Uint8Array(16).fill(1)
const OTHER = new Uint8Array(16).fill(2)

/** The server's end of the one session, and tabs around it, the first of which leads. */
class Tabs {
  /** What the session was given to say. */
  readonly said: string[] = []
  readonly tabs: Presence[] = []
  isConnected = true

  constructor(count: number) {
    const session = {
      setPresence: (channel: string, state: string) => this.said.push(`${channel} ${state}`),
      leavePresence: (channel: string) => this.said.push(`${channel} left`),
      askPresence: (channel: string) => this.said.push(`${channel}?`),
    } as unknown as Session
    for (let at = 0; at < count; at++) {
      const leads = (): boolean => at === 0
      this.tabs.push(
        new Presence(() => (leads() && this.isConnected ? session : undefined), OWN, {
          leads,
          say: (presence: TabPresence) => this.tabs[0]?.hear(structuredClone(presence)),
          show: (channel, members) => this.tabs.slice(1).forEach((tab) => tab.follow(channel, structuredClone(members))),
        }),
      )
    }
  }

  tab(at: number): Presence {
    const tab = this.tabs[at]
    if (tab === undefined) throw new Error('there is no such tab')
    return tab
  }

  /** What has been said since this was last asked. */
  news(): string[] {
    return this.said.splice(0)
  }
}

describe('presence over tabs', () => {
  afterEach(() => vi.useRealTimers())

  test('what_a_tab_shows_and_watches_goes_through_the_one_that_leads', () => {
    const tabs = new Tabs(3)
    const seen: Member[][] = []
    tabs.tab(1).watch('room', (members) => seen.push(members))
    tabs.tab(1).set('room', { at: 'second' })
    expect(tabs.news()).toEqual(['room?', 'room {"at":"second"}'])
    tabs.tab(0).take([{ channel: 'room', device: OTHER, user: 'bob', state: '"here"' }], undefined, false)
    expect(seen.at(-1)).toEqual([{ device: '02'.repeat(16), user: 'bob', state: 'here', isOwn: false }])
    // A third one that watches hears at once who is there, and the server is not asked again.
    tabs.tab(2).watch('room', () => undefined)
    expect(tabs.tab(2).members('room')).toHaveLength(1)
    expect(tabs.news()).toEqual([])
    tabs.tab(0).take([], { channel: 'room', device: OTHER }, false)
    expect(seen.at(-1)).toEqual([])
  })

  test('a_device_is_one_member_and_leaves_with_its_last_tab', () => {
    const tabs = new Tabs(3)
    tabs.tab(1).set('room', 1)
    tabs.tab(2).set('room', 2)
    expect(tabs.news()).toEqual(['room 1', 'room 2'])
    tabs.tab(2).leave('room')
    expect(tabs.news()).toEqual(['room 1'])
    tabs.tab(0).set('room', 0)
    tabs.tab(1).end()
    expect(tabs.news()).toEqual(['room 0', 'room 0'])
    tabs.tab(0).leave('room')
    expect(tabs.news()).toEqual(['room left'])
  })

  test('a_new_session_is_told_all_of_it_but_what_a_tab_showed_that_is_gone', () => {
    vi.useFakeTimers()
    const tabs = new Tabs(3)
    tabs.tab(1).set('room', 'one')
    tabs.tab(2).set('hall', 'two')
    tabs.tab(1).watch('room', () => undefined)
    tabs.news()
    tabs.tab(0).announce()
    expect(tabs.news().sort()).toEqual(['hall "two"', 'room "one"', 'room?'])
    vi.advanceTimersByTime(40_000)
    tabs.tab(1).repeat()
    vi.advanceTimersByTime(40_000)
    tabs.tab(0).announce()
    expect(tabs.news().sort()).toEqual(['room "one"', 'room?'])
  })
})
