// examples/order-board in Chromium: two pages show the same, through a restart of the server, and what is
// shown is what the table says.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { dirname, extname, join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'

import { freePort, Server } from './server.mjs'

const BOARD = join(dirname(fileURLToPath(import.meta.url)), '../../examples/order-board')
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css' }
// Where screenshots go, if somebody wants to look at them.
const SHOTS = process.env.SCREENSHOTS

let server, files, browser, pages, address
const errors = []

before(async () => {
  server = await Server.create()
  const port = await freePort()
  server.settings = ['--cors-origins', `http://127.0.0.1:${port}`]
  await server.start()
  files = createServer(async (request, answer) => {
    const name = new URL(request.url, 'http://files').pathname.slice(1) || 'index.html'
    const type = TYPES[extname(name)]
    const text = type && await readFile(join(BOARD, name)).catch(() => undefined)
    answer.writeHead(text ? 200 : 404, { 'content-type': type ?? 'text/plain' })
    answer.end(text)
  })
  await new Promise((listening) => files.listen(port, '127.0.0.1', listening))
  address = `http://127.0.0.1:${port}/?server=${encodeURIComponent(server.origin)}`
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  })
  pages = [await open(), await open()]
}, { timeout: 60000 })

after(async () => {
  await browser?.close()
  files?.close()
  await server?.remove()
})

async function open() {
  const page = await browser.newPage({ viewport: { width: 1100, height: 720 } })
  page.on('pageerror', (error) => errors.push(error.message))
  await page.goto(address)
  await page.waitForSelector('#connection[data-state="live"]')
  return page
}

async function add(page, customer, item, quantity) {
  await page.getByLabel('Customer', { exact: true }).fill(customer)
  await page.getByLabel('Item', { exact: true }).fill(item)
  await page.getByLabel('Quantity', { exact: true }).fill(String(quantity))
  await page.getByRole('button', { name: 'Add order' }).click()
}

// What a page shows: each column's orders in their order, and the totals.
function shown(page) {
  return page.evaluate(() => ({
    orders: [...document.querySelectorAll('li')].map((card) => [
      Number(card.dataset.id), card.querySelector('.who').textContent, card.querySelector('.item').textContent,
      card.querySelector('.quantity').textContent, card.closest('ol').dataset.status,
    ]),
    totals: Object.fromEntries([...document.querySelectorAll('dd')].map((total) => [total.dataset.status, total.textContent])),
  }))
}

// What the pages ought to show.
async function expected() {
  const { rows } = await server.sql(`SELECT id, 'for ' || customer, item, '× ' || quantity, status FROM orders
    ORDER BY CASE status WHEN 'pending' THEN 1 WHEN 'packed' THEN 2 ELSE 3 END, id`)
  const { rows: sums } = await server.sql('SELECT status, sum(quantity) FROM orders GROUP BY status')
  const totals = { pending: '0', packed: '0', shipped: '0' }
  for (const [status, sum] of sums) totals[status] = String(sum)
  return { orders: rows, totals }
}

async function converge() {
  const want = JSON.stringify(await expected())
  for (const page of pages) {
    let found
    for (const end = Date.now() + 20000; ;) {
      found = JSON.stringify(await shown(page))
      if (found === want) break
      assert.ok(Date.now() < end, `a page shows ${found}, not ${want}`)
      await page.evaluate(() => new Promise((next) => requestAnimationFrame(next)))
    }
  }
}

async function shoot(name) {
  if (!SHOTS) return
  for (const [index, page] of pages.entries()) await page.screenshot({ path: join(SHOTS, `${name}-${index + 1}.png`) })
}

test('two_pages_show_the_same_orders_through_a_restart_of_the_server', { timeout: 120000 }, async () => {
  const [one, two] = pages
  await shoot('empty')
  await add(one, 'Ada', 'Blue teapot', 2)
  await add(two, 'Grace', 'Lamp', 1)
  await add(one, 'Edsger', 'A very long name of an item that has to wrap somewhere', 12)
  await two.waitForSelector('li >> text=Blue teapot')
  await converge()
  await two.getByRole('button', { name: 'Pack Blue teapot for Ada' }).click()
  await one.getByRole('button', { name: 'Ship Blue teapot for Ada' }).click()
  await one.getByRole('button', { name: 'Pack Lamp for Grace' }).click()
  await one.waitForSelector('ol[data-status="packed"] li >> text=Lamp')
  await converge()
  await shoot('before')

  await server.kill()
  await Promise.all(pages.map((page) => page.waitForSelector('#connection[data-state="lost"]')))
  await add(one, 'Nobody', 'Lost', 1)
  await one.waitForFunction(() => document.getElementById('problem').textContent.includes('cannot be reached'))
  await shoot('lost')
  await server.start()
  // Changed while nobody was connected.
  await server.sql("UPDATE orders SET quantity = 5 WHERE item = 'Lamp'")
  await server.sql("DELETE FROM orders WHERE customer = 'Edsger'")
  await server.sql("INSERT INTO orders (customer, item, quantity, status) VALUES ('Barbara', 'Kettle', 3, 'pending')")
  await Promise.all(pages.map((page) => page.waitForSelector('#connection[data-state="live"]')))
  await converge()
  await two.getByRole('button', { name: 'Remove Lamp for Grace' }).click()
  await one.waitForSelector('li >> text=Lamp', { state: 'detached' })
  await converge()

  // A new column changes what the pages ask for in nothing; a truncated table makes them fetch anew.
  await server.sql('ALTER TABLE orders ADD COLUMN note text')
  await add(two, 'Alan', 'Clock', 4)
  await one.waitForSelector('li >> text=Clock')
  await converge()
  await shoot('after')
  await server.sql('TRUNCATE orders')
  await one.waitForSelector('li', { state: 'detached' })
  await converge()
  assert.deepEqual(errors, [])
})

test('the_board_can_be_used_without_a_mouse_and_every_control_has_a_name', { timeout: 60000 }, async () => {
  const [one] = pages
  await one.reload()
  await one.waitForSelector('#connection[data-state="live"]')
  await one.keyboard.press('Tab')
  await one.keyboard.type('Ada')
  await one.keyboard.press('Tab')
  await one.keyboard.type('Teapot')
  await one.keyboard.press('Enter')
  await one.waitForSelector('li >> text=Teapot')
  const unnamed = await one.evaluate(() => [...document.querySelectorAll('button, input')]
    .filter((control) => !(control.ariaLabel || control.labels?.[0]?.textContent || control.textContent).trim()).length)
  assert.equal(unnamed, 0)
  await converge()
})
