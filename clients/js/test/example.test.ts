/**
 * The example application in Chromium: two tabs, two browsers, no network, a title that is taken, and
 * a dead letter that is tried again. With SPRINGHEAD_SCREENSHOTS pictures are left in that directory.
 */

import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Client } from '../src/client.js'
import { CHROMIUM, launch, Site } from './chromium.js'
import { BINARY, Server } from './server.js'

const PICTURES = process.env['SPRINGHEAD_SCREENSHOTS']
const soon = { timeout: 15_000, interval: 20 }

describe.skipIf(BINARY === undefined || !existsSync(CHROMIUM))('the to-do example', () => {
  let site: Site
  let server: Server
  let client: Client
  let browser: Browser
  const problems: string[] = []

  beforeAll(async () => {
    site = await Site.start()
    server = await Server.start('--cors-origins', site.origin)
    client = new Client({ url: server.url })
    const schema = await readFile(new URL('../../../examples/todo/schema.sql', import.meta.url), 'utf8')
    for (const statement of schema.replace(/--.*\n/g, '').split(';')) {
      if (statement.trim() !== '') await client.sql(statement)
    }
    browser = await launch()
  })

  afterAll(async () => {
    await browser.close()
    await server.remove()
    await site.close()
  })

  async function visit(context: BrowserContext, file = 'index.html'): Promise<Page> {
    const page = await context.newPage()
    page.on('pageerror', (error) => problems.push(String(error)))
    await page.goto(`${site.origin}/${file}?server=${encodeURIComponent(server.url)}`)
    return page
  }

  async function picture(page: Page, name: string): Promise<void> {
    if (PICTURES === undefined) return
    await page.bringToFront()
    await page.screenshot({ path: join(PICTURES, `${name}.png`), fullPage: true })
  }

  const titles = (page: Page): Promise<string[]> => page.locator('#todos .title').allTextContents()
  const connection = (page: Page): Promise<string | null> => page.locator('#connection').textContent()
  const waiting = (page: Page): Promise<string[]> => page.locator('#todos .mark').allTextContents()

  async function add(page: Page, title: string): Promise<void> {
    await page.getByLabel('New to-do').fill(title)
    await page.getByRole('button', { name: 'Add' }).click()
  }

  test('g9_tabs_browsers_no_network_a_taken_title_and_a_dead_letter', async () => {
    const [home, away] = [await browser.newContext({ viewport: { width: 860, height: 640 } }), await browser.newContext({ viewport: { width: 860, height: 640 } })]
    const [tab, other, far] = [await visit(home), await visit(home), await visit(away)]
    for (const page of [tab, other, far]) await expect.poll(() => connection(page), soon).toBe('Online')

    // Two tabs, two browsers.
    await add(tab, 'Buy milk')
    await add(other, 'Water the plants')
    for (const page of [tab, other, far]) {
      await expect.poll(() => titles(page), soon).toEqual(['Buy milk', 'Water the plants'])
    }
    await far.getByRole('textbox', { name: 'Notes for everyone' }).fill('The key is under the mat.')
    for (const page of [tab, other]) {
      await expect.poll(() => page.locator('#note').inputValue(), soon).toBe('The key is under the mat.')
    }
    // One note, written by two at once without a network: all of it is there in the end.
    const noteOf = (page: Page) => page.getByRole('textbox', { name: 'Notes for everyone' })
    await home.setOffline(true)
    await away.setOffline(true)
    for (const page of [other, far]) await page.locator('#offline').waitFor()
    await noteOf(other).focus()
    await other.keyboard.press('Control+End')
    await other.keyboard.type(' Ring twice.')
    await noteOf(far).focus()
    await far.keyboard.press('Control+Home')
    await far.keyboard.type('Hello! ')
    expect(await noteOf(other).inputValue()).toBe('The key is under the mat. Ring twice.')
    expect(await noteOf(far).inputValue()).toBe('Hello! The key is under the mat.')
    await expect.poll(() => far.locator('#note-mark').textContent(), soon).toBe('waiting')
    await picture(far, 'note-offline')
    await home.setOffline(false)
    await away.setOffline(false)
    for (const page of [tab, other, far]) {
      await expect.poll(() => noteOf(page).inputValue(), soon).toBe('Hello! The key is under the mat. Ring twice.')
    }
    const [stored] = (await client.sql("SELECT body FROM notes WHERE id = 'shared'")).rows
    expect(stored).toEqual(['Hello! The key is under the mat. Ring twice.'])
    // A headless browser promises nothing: the user is told.
    expect(await tab.locator('#storage').isVisible()).toBe(true)
    await picture(tab, 'online')
    await tab.getByRole('button', { name: 'All right' }).click()
    expect(await tab.locator('#storage').isVisible()).toBe(false)

    // The tab that has the connection is closed: the other takes over.
    await tab.close()
    await add(far, 'Call home')
    await expect.poll(() => titles(other), soon).toEqual(['Buy milk', 'Call home', 'Water the plants'])

    // No network: everything goes on, and is marked.
    await home.setOffline(true)
    await other.locator('#offline').waitFor()
    await add(other, 'Feed the cat')
    await other.getByLabel('Vote for Buy milk, 0 so far').click()
    await expect.poll(() => waiting(other), soon).toEqual(['waiting', '', 'waiting', ''])
    await expect.poll(() => connection(other)).toBe('Offline · 2 waiting')
    await far.getByLabel('Vote for Buy milk, 0 so far').click()
    await add(far, 'Feed the cat')
    await picture(other, 'offline')
    await expect.poll(() => titles(far), soon).toContain('Feed the cat')

    // Votes add up; the title is taken, and its author is told.
    await home.setOffline(false)
    await other.locator('#rejections').waitFor()
    await expect.poll(() => connection(other), soon).toBe('Online')
    await other.getByLabel('Vote for Buy milk, 2 so far').waitFor()
    await expect.poll(() => titles(other), soon).toEqual(['Buy milk', 'Call home', 'Feed the cat', 'Water the plants'])
    await picture(other, 'rejected')
    const fix = other.locator('#rejections .fix')
    const suggested = (await fix.textContent())?.replace(/^Use “(.*)”$/, '$1') ?? ''
    await fix.click()
    for (const page of [other, far]) await expect.poll(() => titles(page), soon).toContain(suggested)
    await expect.poll(() => other.locator('#rejections').isHidden(), soon).toBe(true)
    await picture(other, 'fixed')

    // Another is left to whoever looks after dead letters.
    await add(other, 'Call home')
    await other.locator('#rejections').waitFor()
    await other.getByRole('button', { name: 'Discard' }).click()
    const admin = await visit(away, 'admin.html')
    await expect.poll(() => admin.locator('#letters tr').count(), soon).toBe(2)
    await picture(admin, 'dead-letters')
    await admin.locator('#letters tr').last().getByRole('button', { name: 'Try again' }).click()
    await expect.poll(() => admin.locator('#outcome').textContent(), soon).toContain('Not applied')
    await far.getByRole('button', { name: 'Delete Call home' }).click()
    await expect.poll(() => titles(other), soon).not.toContain('Call home')
    await admin.locator('#letters tr').last().getByRole('button', { name: 'Try again' }).click()
    await expect.poll(() => admin.locator('#outcome').textContent(), soon).toContain('is applied')
    for (const page of [other, far]) await expect.poll(() => titles(page), soon).toContain('Call home')
    await picture(admin, 'redriven')

    // All is kept: the page begins without a network where it ended.
    const before = await titles(other)
    await other.close()
    await server.kill()
    const again = await visit(home)
    await expect.poll(() => titles(again), soon).toEqual(before)
    await again.locator('#offline').waitFor()
    expect(problems).toEqual([])
  }, 60_000)
})
