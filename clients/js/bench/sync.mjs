// How fast a device is: rows per second of a first sync in Node and in Chromium, and the bytes of
// one-column updates in pushes of 100. Needs a release build and the built package:
//
//     npm run build && SPRINGHEAD_BIN=../../target/release/springhead node bench/sync.mjs [rows]

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import { connect, createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { chromium } from 'playwright-core'
import { WebSocket } from 'ws'

import { Client, Device, MemoryStore } from '../dist/index.js'
import { FileStore } from '../dist/node.js'

const ROWS = Number(process.argv[2] ?? 50_000)
const directory = await mkdtemp(join(tmpdir(), 'springhead-bench-'))
const site = createServer(serve).listen(0, '127.0.0.1')
await once(site, 'listening')
const origin = `http://127.0.0.1:${site.address().port}`
const page = await bundle()

const server = await startServer()
const client = new Client({ url: server.url })
const counted = await countingProxy(server.http)
try {
  await fill()
  await firstSync('Node, in memory', () => new MemoryStore())
  await firstSync('Node, in a file', () => FileStore.open(join(directory, 'device')))
  await inChromium()
  await updates()
} finally {
  server.child.kill('SIGKILL')
  site.close()
  counted.close()
  await rm(directory, { recursive: true, force: true })
}

async function fill() {
  await client.sql('CREATE TABLE todos (id INTEGER PRIMARY KEY, title TEXT NOT NULL, done BOOLEAN NOT NULL, votes INTEGER NOT NULL)')
  await client.sql(`INSERT INTO todos SELECT n, 'to-do number ' || n, n % 2 = 0, n % 10 FROM generate_series(1, ${ROWS}) AS g(n)`)
}

async function firstSync(name, store) {
  const device = await Device.open({ name: 'bench', store: await store(), webSocket: WebSocket })
  await device.subscribe('todos')
  const start = performance.now()
  device.connect({ url: server.url })
  await device.when(({ complete }) => complete)
  report(`first sync, ${name}`, `${Math.round(ROWS / ((performance.now() - start) / 1000))} rows/s`)
  await device.close()
}

async function inChromium() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
  })
  const tab = await browser.newPage()
  await tab.goto(origin)
  const ms = await tab.evaluate(async (url) => {
    const { Device } = window.springhead
    const device = await Device.open({ name: 'bench' })
    await device.subscribe('todos')
    const start = performance.now()
    device.connect({ url })
    await device.when(({ complete }) => complete)
    return performance.now() - start
  }, server.url)
  report('first sync, Chromium, IndexedDB', `${Math.round(ROWS / (ms / 1000))} rows/s`)
  await browser.close()
}

async function updates() {
  const device = await Device.open({ name: 'bench', store: new MemoryStore(), webSocket: WebSocket })
  await device.subscribe('todos', { where: 'id <= 1000' })
  device.connect({ url: counted.url })
  await device.when(({ live }) => live)
  device.disconnect()
  for (let n = 1; n <= 1000; n++) await device.collection('todos').patch(n, { votes: n })
  counted.pushed = 0
  counted.answered = 0
  const start = performance.now()
  device.connect({ url: counted.url })
  await device.when(({ pending, state }) => pending === 0 && state === 'online')
  const ms = performance.now() - start
  report('one-column update, device to server, all bytes', `${(counted.pushed / 1000).toFixed(1)} bytes each`)
  report('one-column update, server to device, verdict and delta', `${(counted.answered / 1000).toFixed(1)} bytes each`)
  report('pushes of one device, 1,000 queued', `${Math.round(1000 / (ms / 1000))} mutations/s`)
  await device.close()
}

function report(what, figure) {
  console.log(`${what.padEnd(56)} ${figure}`)
}

async function bundle() {
  const { outputFiles } = await build({
    stdin: { contents: "import * as all from './dist/index.js'; window.springhead = all", resolveDir: fileURLToPath(new URL('..', import.meta.url)) },
    bundle: true,
    minify: true,
    format: 'iife',
    write: false,
  })
  return `<!doctype html><title>bench</title><script>${outputFiles[0].text}</script>`
}

function serve(_, response) {
  response.writeHead(200, { 'content-type': 'text/html' }).end(page)
}

async function freePort() {
  const probe = createTcpServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address()
  await new Promise((resolve) => probe.close(resolve))
  return port
}

async function startServer() {
  const [pg, http] = [await freePort(), await freePort()]
  const args = ['serve', '--data-dir', join(directory, 'data'), '--pg', `127.0.0.1:${pg}`, '--http', `127.0.0.1:${http}`, '--cors-origins', origin]
  const child = spawn(process.env.SPRINGHEAD_BIN ?? '../../target/release/springhead', args, { stdio: 'ignore' })
  const url = `http://127.0.0.1:${http}`
  while (!(await fetch(`${url}/readyz`).then(({ ok }) => ok, () => false))) await new Promise((resolve) => setTimeout(resolve, 20))
  return { child, url, http }
}

/** Counts what a device and the server send each other, WebSocket frames and all. */
async function countingProxy(to) {
  const proxy = createTcpServer()
  const counted = { pushed: 0, answered: 0, close: () => proxy.close() }
  proxy.on('connection', (inner) => {
    const outer = connect(to, '127.0.0.1')
    inner.on('data', (data) => (counted.pushed += data.length))
    outer.on('data', (data) => (counted.answered += data.length))
    inner.pipe(outer).pipe(inner)
    for (const socket of [inner, outer]) socket.on('error', () => socket.destroy())
  })
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  counted.url = `http://127.0.0.1:${proxy.address().port}`
  return counted
}
