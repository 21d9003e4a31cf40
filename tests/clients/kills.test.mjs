// While the server is killed with -9 and started again ten times under a writing load, clients that
// know nothing of Springhead end with exactly the rows that were acknowledged, each once, in order:
// a browser's EventSource, the npm package `eventsource`, and a poller that switches exits.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { EventSource } from 'eventsource'
import { chromium } from 'playwright-core'

import { Writers } from './load.mjs'
import { Server } from './server.mjs'

const KILLS = 10
const OPERATIONS = ['insert', 'update', 'delete', 'truncate']

let server, writers, browser, page, inTable
const seen = {}
let npmSource, poller

before(async () => {
  server = await Server.create()
  await server.start()
  await server.sql('CREATE TABLE orders (id TEXT PRIMARY KEY, writer INTEGER, seq INTEGER)')
  await openBrowser()
  openNpm()
  poller = poll()
  writers = new Writers(server, 4)
  for (let kill = 0; kill < KILLS; kill++) {
    await writers.progress(60)
    await server.kill()
    await server.start()
  }
  await writers.progress(60)
  await writers.stop()
  await server.sql("INSERT INTO orders VALUES ('end', 0, 0)")
  await Promise.race([
    Promise.all([poller, seen.npm.ended, page.waitForFunction('window.ended', null, { timeout: 60000 })]),
    new Promise((_, reject) => setTimeout(() => reject(new Error('a client never saw the end')), 60000).unref()),
  ]).catch((error) => { seen.problem = error })
  seen.browser = { ...await page.evaluate('({ events: window.events, closed: window.refused, opened: window.opened })') }
  inTable = new Set((await server.sql('SELECT id FROM orders')).rows.map(([id]) => id))
}, { timeout: 240000 })

after(async () => {
  npmSource?.close()
  await browser?.close()
  await server?.remove()
})

async function openBrowser() {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  })
  page = await browser.newPage()
  // The page itself is not Springhead's to serve; everything else on its origin is.
  await page.route('**/page.html', (route) => route.fulfill({
    contentType: 'text/html',
    body: `<!doctype html><title>orders</title><script>
      window.events = []; window.refused = 0; window.opened = 0; window.ended = false
      const source = new EventSource('/cdc/orders?since_lsn=1')
      source.onopen = () => { window.opened++ }
      source.onerror = () => { if (source.readyState === EventSource.CLOSED) window.refused++ }
      for (const operation of ${JSON.stringify(OPERATIONS)}) {
        source.addEventListener(operation, (event) => {
          const change = JSON.parse(event.data)
          window.events.push({ lsn: change.lsn, id: change.document_id, cursor: event.lastEventId, operation })
          if (change.document_id === 'end') { window.ended = true; source.close() }
        })
      }
      source.addEventListener('must-refetch', () => { window.refused++ })
    </script>`,
  }))
  await page.goto(`${server.origin}/page.html`)
}

function openNpm() {
  const result = { events: [], closed: 0, opened: 0 }
  npmSource = new EventSource(`${server.origin}/cdc/orders?since_lsn=1`)
  npmSource.onopen = () => { result.opened++ }
  npmSource.onerror = () => { if (npmSource.readyState === EventSource.CLOSED) result.closed++ }
  result.ended = new Promise((resolve) => {
    for (const operation of OPERATIONS) {
      npmSource.addEventListener(operation, (event) => {
        const change = JSON.parse(event.data)
        result.events.push({ lsn: change.lsn, id: change.document_id, cursor: event.lastEventId, operation })
        if (change.document_id === 'end') {
          npmSource.close()
          resolve()
        }
      })
    }
  })
  seen.npm = result
}

// Long polls, and now and then a stream that is left after a few events, from the same cursor.
async function poll() {
  const result = { events: [], switches: 0, closed: 0, opened: 2 }
  seen.poller = result
  let cursor = '0'
  const take = (change) => {
    if (change.operation === 'DEFINITION') return false
    result.events.push({
      lsn: change.lsn, id: change.document_id, cursor: change.cursor, operation: change.operation.toLowerCase(),
    })
    return change.document_id === 'end'
  }
  for (let turn = 0; ; turn++) {
    try {
      if (turn % 3 === 2) {
        result.switches++
        for await (const { id, event, data } of stream(cursor, 7)) {
          if (OPERATIONS.includes(event) && take(JSON.parse(data))) return
          if (id) cursor = id
        }
      } else {
        const answer = await fetch(`${server.origin}/cdc/orders/poll?cursor=${cursor}&wait_ms=500&limit=50`)
        const body = await answer.json()
        if (!answer.ok) throw Object.assign(new Error(JSON.stringify(body)), { refused: answer.status !== 503 })
        if (body.changes.map(take).includes(true)) return
        cursor = body.next_cursor.cursor
      }
    } catch (error) {
      if (error.refused) { result.closed++; return }
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }
}

// At most `limit` events of a stream, read by fetch.
async function* stream(cursor, limit) {
  const leave = new AbortController()
  const answer = await fetch(`${server.origin}/cdc/orders`, {
    headers: { accept: 'text/event-stream', 'last-event-id': cursor }, signal: leave.signal,
  })
  if (!answer.ok) throw Object.assign(new Error(`${answer.status}`), { refused: answer.status !== 503 })
  let text = ''
  try {
    // Leaves an idle stream too: there may be nothing to come until the end.
    const idle = setTimeout(() => leave.abort(), 1000)
    for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
      text += piece
      for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
        const fields = {}
        for (const line of text.slice(0, end).split('\n')) {
          const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line)
          if (name) fields[name] = value
        }
        if (fields.id || fields.data) yield fields
        if (--limit <= 0) { clearTimeout(idle); return }
      }
    }
    clearTimeout(idle)
  } finally {
    leave.abort()
  }
}

function check(result) {
  assert.equal(seen.problem, undefined)
  assert.equal(writers.refused, undefined)
  assert.equal(result.closed, 0, 'it was refused once and for all')
  const shown = result.events.map(({ id }) => id).filter((id) => id !== 'end')
  const lsns = result.events.map(({ lsn }) => lsn)
  assert.ok(result.events.every(({ operation }) => operation === 'insert'))
  assert.ok(result.events.every(({ lsn, cursor }) => cursor.startsWith(`${lsn}@`)))
  assert.ok(lsns.every((lsn, index) => index === 0 || lsn > lsns[index - 1]), 'LSNs rise')
  assert.equal(new Set(shown).size, shown.length, 'each once')
  const ids = new Set(shown)
  assert.deepEqual(writers.acknowledged.filter((id) => !ids.has(id)), [], 'acknowledged and not shown')
  assert.deepEqual(shown.filter((id) => !inTable.has(id)), [], 'shown and not in the table')
  assert.equal(shown.length + 1, inTable.size)
  const unknown = new Set(writers.unknown)
  const acknowledged = new Set(writers.acknowledged)
  assert.deepEqual(shown.filter((id) => !acknowledged.has(id) && !unknown.has(id)), [], 'never sent')
  // In order: of each writer the order it wrote in.
  const last = new Map()
  for (const id of shown) {
    const [writer, seq] = id.split('-').map(Number)
    assert.ok(seq > (last.get(writer) ?? -1), `${id} after ${writer}-${last.get(writer)}`)
    last.set(writer, seq)
  }
  assert.ok(writers.acknowledged.length >= KILLS * 60)
  assert.ok(result.opened > 1, 'it never had to reconnect')
  return `${writers.acknowledged.length} acknowledged, ${unknown.size} unknown, ${shown.length} shown`
}

test('g2_a_browsers_event_source_ends_with_exactly_the_acknowledged_rows', (t) => {
  t.diagnostic(check(seen.browser))
})

test('g2_the_npm_event_source_ends_with_exactly_the_acknowledged_rows', (t) => {
  t.diagnostic(check(seen.npm))
})

test('g2_a_poller_that_switches_exits_ends_with_exactly_the_acknowledged_rows', (t) => {
  t.diagnostic(check(seen.poller))
  assert.ok(seen.poller.switches > 3)
})
