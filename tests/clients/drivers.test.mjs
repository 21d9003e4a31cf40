// node-postgres and postgres.js with a password and TLS, Drizzle with neither: each its ordinary use.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { drizzle } from 'drizzle-orm/postgres-js'
import { eq, sql as fragment, sum } from 'drizzle-orm'
import * as schema from 'drizzle-orm/pg-core'
import pg from 'pg'
import postgres from 'postgres'
import { Server } from './server.mjs'

let server
let open
before(async () => {
  server = await Server.secure()
  open = await Server.create()
  await open.start()
})
after(() => Promise.all([server.remove(), open.remove()]))

const options = () => server.login()

test('node-postgres: types, prepared statements, transactions, errors, notifications, cancel', async (t) => {
  const client = new pg.Client(options())
  await client.connect()
  t.after(() => client.end())
  await client.query('CREATE TABLE np (id serial PRIMARY KEY, n text UNIQUE, j jsonb, a int[], d timestamptz)')
  const moment = new Date('2024-02-29T01:02:03.004Z')
  for (const n of ['a', 'b']) {
    const inserted = await client.query({
      name: 'insert-np',
      text: 'INSERT INTO np (n, j, a, d) VALUES ($1, $2, $3, $4) RETURNING *',
      values: [n, { k: [1] }, [1, null, 3], moment],
    })
    assert.deepEqual(inserted.rows[0].j, { k: [1] })
    assert.deepEqual(inserted.rows[0].a, [1, null, 3])
    assert.deepEqual(inserted.rows[0].d, moment)
  }
  await client.query('BEGIN')
  await assert.rejects(client.query("INSERT INTO np (n) VALUES ('a')"), { code: '23505', constraint: 'np_n_key' })
  await assert.rejects(client.query('SELECT 1'), { code: '25P02' })
  await client.query('ROLLBACK')
  const some = await client.query('SELECT n FROM np WHERE n = ANY($1) ORDER BY n', [['a', 'x']])
  assert.deepEqual(some.rows, [{ n: 'a' }])

  const other = new pg.Client(options())
  await other.connect()
  t.after(() => other.end())
  await client.query('LISTEN news')
  const received = new Promise((done) => client.once('notification', done))
  await other.query("NOTIFY news, 'hello'")
  const { channel, payload, processId } = await received
  assert.deepEqual({ channel, payload, processId }, { channel: 'news', payload: 'hello', processId: other.processID })

  await client.query("SET statement_timeout = '200ms'")
  const endless = 'WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r WHERE n < 0'
  await assert.rejects(client.query(endless), { code: '57014' })
})

test('node-postgres: every type, values in binary, the login bound to the channel', async (t) => {
  const client = new pg.Client({ ...options(), enableChannelBinding: true })
  await client.connect()
  t.after(() => client.end())
  assert.ok(client.connection.stream.encrypted)
  const values = {
    smallint: -7, integer: 70000, bigint: '4611686018427387904', real: 1.5, 'double precision': -2.25,
    'numeric(12,3)': '1234.567', boolean: true, text: "söme 'text'", 'varchar(20)': 'short', date: '2024-02-29',
    time: '12:34:56.000789', uuid: '00000000-0000-0000-0000-000000000005', json: { a: [1] }, jsonb: { a: [1] },
    'text[]': ['a,b', 'c"d', null],
  }
  for (const [type, value] of Object.entries(values)) {
    const text = type.startsWith('json') ? JSON.stringify(value) : value
    const cast = type === 'date' ? `to_char($1::date, 'YYYY-MM-DD')` : `$1::${type}`
    const { rows } = await client.query(`SELECT ${cast} AS v, NULL::${type} AS n`, [text])
    assert.deepEqual(rows, [{ v: value, n: null }], type)
  }
  // The driver reads binary values as UTF-8 before it decodes them: only bytes of ASCII survive it.
  const binary = await client.query({ text: 'SELECT $1::int4 AS a, $2::bool AS b, $3::float8 AS c, $4::int8 AS d',
    values: [70000, false, 2, '5'], binary: true })
  assert.deepEqual({ ...binary.rows[0], d: String(binary.rows[0].d) }, { a: 70000, b: false, c: 2, d: '5' })
})

test('who does not show the password, over TLS and to the right server, is refused', async () => {
  for (const wrong of [{ password: 'wrong' }, { ssl: false }, { ssl: {} }]) {
    const client = new pg.Client({ ...options(), ...wrong })
    client.on('error', () => {})
    await assert.rejects(client.connect(), (error) => error.code === (wrong.ssl && !wrong.password
      ? 'UNABLE_TO_VERIFY_LEAF_SIGNATURE' : wrong.password ? '28P01' : '28000'))
    const sql = postgres({ ...options(), ...wrong, max: 1 })
    await assert.rejects(sql`SELECT 1`)
    await sql.end()
  }
})

test('postgres.js: types, transactions, errors, cursors, notifications, cancel', async (t) => {
  const sql = postgres(options())
  t.after(() => sql.end())
  await sql`CREATE TABLE pj (id serial PRIMARY KEY, n text UNIQUE, j jsonb, a int[], b bytea)`
  const [row] = await sql`
    INSERT INTO pj (n, j, a, b) VALUES (${'a'}, ${sql.json({ k: 1 })}, ${[1, 2]}, ${Buffer.from([0, 255])}) RETURNING *`
  assert.deepEqual({ ...row, b: [...row.b] }, { id: 1, n: 'a', j: { k: 1 }, a: [1, 2], b: [0, 255] })
  await sql.begin(async (inside) => {
    await inside`INSERT INTO pj ${inside([{ n: 'b' }, { n: 'c' }], 'n')}`
    await assert.rejects(inside.savepoint((deeper) => deeper`INSERT INTO pj (n) VALUES ('b')`), { code: '23505' })
  })
  assert.deepEqual((await sql`SELECT n FROM pj WHERE n IN ${sql(['b', 'c'])} ORDER BY n`).map((r) => r.n), ['b', 'c'])
  let count = 0
  await sql`SELECT * FROM generate_series(1, 25)`.cursor(10, (rows) => { count += rows.length })
  assert.equal(count, 25)
  await sql`CREATE TABLE pj_copied (id int, n text)`
  const into = await sql`COPY pj_copied FROM STDIN`.writable()
  await new Promise((done, failed) => into.on('finish', done).on('error', failed).end('1\ta\n2\t\\N\n'))
  const lines = []
  for await (const chunk of await sql`COPY pj_copied TO STDOUT (FORMAT csv)`.readable()) lines.push(String(chunk))
  assert.equal(lines.join(''), '1,a\n2,\n')
  const received = new Promise((done) => sql.listen('news', done, () => sql.notify('news', 'hello')))
  assert.equal(await received, 'hello')
  const endless = sql`WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r WHERE n < 0`
  setTimeout(() => endless.cancel(), 500)
  await assert.rejects(endless, { code: '57014' })
})

test('Drizzle: an application creates, queries and updates', async (t) => {
  const client = postgres(open.login())
  t.after(() => client.end())
  const db = drizzle(client)
  const shop = schema.pgTable('shop', { id: schema.serial().primaryKey(), name: schema.varchar({ length: 40 }).notNull() })
  const sale = schema.pgTable('sale', {
    id: schema.integer().primaryKey().generatedAlwaysAsIdentity(),
    shop: schema.integer().references(() => shop.id),
    amount: schema.numeric({ precision: 10, scale: 2 }).notNull(),
    at: schema.timestamp({ withTimezone: true }).defaultNow(),
  })
  await db.execute(fragment`CREATE TABLE shop (id serial PRIMARY KEY, name varchar(40) NOT NULL)`)
  await db.execute(fragment`CREATE TABLE sale (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, shop int REFERENCES shop,
    amount numeric(10,2) NOT NULL, at timestamptz DEFAULT now())`)
  const [first] = await db.insert(shop).values([{ name: 'one' }, { name: 'two' }]).returning()
  await db.transaction(async (inside) => {
    await inside.insert(sale).values([{ shop: first.id, amount: '1.50' }, { shop: first.id, amount: '2.25' }])
  })
  const totals = await db.select({ name: shop.name, total: sum(sale.amount) }).from(shop)
    .leftJoin(sale, eq(sale.shop, shop.id)).groupBy(shop.id).orderBy(shop.name)
  assert.deepEqual(totals, [{ name: 'one', total: '3.75' }, { name: 'two', total: null }])
  await db.update(shop).set({ name: 'uno' }).where(eq(shop.id, first.id))
  await db.insert(shop).values({ id: first.id, name: 'x' }).onConflictDoUpdate({ target: shop.id, set: { name: 'due' } })
  assert.deepEqual(await db.select().from(shop).where(eq(shop.id, first.id)), [{ id: first.id, name: 'due' }])
  await db.delete(sale)
})
