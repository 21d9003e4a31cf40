// The same figures of others, where they install: PouchDB with its own server (express-pouchdb, in
// memory), first sync over HTTP on loopback, and the bytes of one-column updates; Yjs, the bytes of a
// change in a map. Not dependencies of this package:
//
//     npm install --no-save pouchdb-core pouchdb-adapter-http pouchdb-adapter-memory pouchdb-replication \
//       pouchdb-mapreduce express-pouchdb express@4 yjs && node bench/peers.mjs [rows]

import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import express from 'express'
import expressPouch from 'express-pouchdb'
import http from 'pouchdb-adapter-http'
import memory from 'pouchdb-adapter-memory'
import PouchDB from 'pouchdb-core'
import mapreduce from 'pouchdb-mapreduce'
import replication from 'pouchdb-replication'
import * as Y from 'yjs'

const ROWS = Number(process.argv[2] ?? 20_000)
const UPDATES = 1000

PouchDB.plugin(memory).plugin(http).plugin(mapreduce).plugin(replication)
const InMemory = PouchDB.defaults({ adapter: 'memory' })
const app = express()
app.use('/', expressPouch(InMemory, { inMemoryConfig: true, mode: 'minimumForPouchDB' }))
const server = app.listen(0, '127.0.0.1')
await once(server, 'listening')
const counted = await countingProxy(server.address().port)

const origin = new InMemory('todos')
await origin.bulkDocs(Array.from({ length: ROWS }, (_, n) => ({ _id: String(n).padStart(8, '0'), title: `to-do number ${n}`, done: n % 2 === 0, votes: n % 10 })))

const device = new InMemory('device')
const remote = new PouchDB(`${counted.url}/todos`)
let start = performance.now()
await device.replicate.from(remote, { batch_size: 1000 })
console.log(`PouchDB: first sync ${Math.round(ROWS / ((performance.now() - start) / 1000))} rows/s`)

// So that it knows where to go on, and does not ask for every document first.
await device.replicate.to(remote, { batch_size: 1000 })
const { rows } = await device.allDocs({ include_docs: true, limit: UPDATES })
await device.bulkDocs(rows.map(({ doc }) => ({ ...doc, votes: doc.votes + 1 })))
counted.pushed = 0
start = performance.now()
await device.replicate.to(remote, { batch_size: 100 })
const ms = performance.now() - start
console.log(`PouchDB: one-column update in batches of 100, device to server ${(counted.pushed / UPDATES).toFixed(1)} bytes each, ${Math.round(UPDATES / (ms / 1000))} updates/s`)

const doc = new Y.Doc()
const map = doc.getMap('todos')
for (let n = 0; n < UPDATES; n++) map.set(String(n), new Y.Map([['votes', 0]]))
let bytes = 0
for (let at = 0; at < UPDATES; at += 100) {
  const before = Y.encodeStateVector(doc)
  doc.transact(() => {
    for (let n = at; n < at + 100; n++) map.get(String(n)).set('votes', n)
  })
  bytes += Y.encodeStateAsUpdate(doc, before).length
}
console.log(`Yjs: one-column update in batches of 100 ${(bytes / UPDATES).toFixed(1)} bytes each (no envelope, tombstones included)`)
server.close()
counted.close()
process.exit(0)

async function countingProxy(to) {
  const proxy = createServer()
  const counts = { pushed: 0, close: () => proxy.close() }
  proxy.on('connection', (inner) => {
    const outer = connect(to, '127.0.0.1')
    inner.on('data', (data) => (counts.pushed += data.length))
    inner.pipe(outer).pipe(inner)
    for (const socket of [inner, outer]) socket.on('error', () => socket.destroy())
  })
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  counts.url = `http://127.0.0.1:${proxy.address().port}`
  return counts
}
