// A shared order board: everything on it is the result of two live queries. The page writes with SQL and
// never touches its own list: what it shows has come back from the log, as on every other page.

const server = new URL(new URLSearchParams(location.search).get('server') ?? 'http://127.0.0.1:6480').origin
const NEXT = { pending: ['packed', 'Pack'], packed: ['shipped', 'Ship'] }

// ---- what comes ----

// Keeps `rows`, by key, as the live query says; calls `changed` after each of its events.
function live(sql, changed) {
  const rows = new Map()
  const query = new URLSearchParams({ sql, envelope: 'upsert' })
  let source
  // What has come of a snapshot so far; null where the connection has gone on from its cursor.
  let snapshot = null
  const open = () => {
    // EventSource comes back by itself, with the last cursor that it has seen.
    source = new EventSource(`${server}/live?${query}`)
    source.addEventListener('snapshot', (event) => {
      const part = JSON.parse(event.data)
      snapshot ??= new Map()
      part.keys.forEach((key, index) => snapshot.set(key, part.rows[index]))
    })
    source.addEventListener('ready', () => {
      if (snapshot) {
        rows.clear()
        snapshot.forEach((row, key) => rows.set(key, row))
        snapshot = null
      }
      connection('live')
      changed(rows)
    })
    source.addEventListener('change', (event) => {
      const { upsert, delete: deleted } = JSON.parse(event.data)
      deleted.forEach(({ key }) => rows.delete(key))
      upsert.forEach(({ key, row }) => rows.set(key, row))
      changed(rows)
    })
    source.addEventListener('must-refetch', () => {
      source.close()
      snapshot = null
      open()
    })
    source.addEventListener('error', (event) => {
      snapshot = null
      connection('lost')
      // The server has said why; without a word the connection broke, and comes back.
      if (event.data) {
        source.close()
        problem(JSON.parse(event.data).message)
      }
    })
  }
  open()
}

// ---- what is shown ----

const cards = new Map()

function showOrders(rows) {
  for (const [id, card] of cards) {
    if (!rows.has(id)) {
      card.remove()
      cards.delete(id)
    }
  }
  for (const [id, [, customer, item, quantity, status]] of rows) {
    const card = cards.get(id) ?? newCard(id)
    card.querySelector('.item').textContent = item
    card.querySelector('.quantity').textContent = `× ${quantity}`
    card.querySelector('.who').textContent = `for ${customer}`
    const next = card.querySelector('.next')
    next.hidden = !NEXT[status]
    if (NEXT[status]) {
      next.textContent = NEXT[status][1]
      next.setAttribute('aria-label', `${NEXT[status][1]} ${item} for ${customer}`)
    }
    card.querySelector('.remove').setAttribute('aria-label', `Remove ${item} for ${customer}`)
    card.dataset.status = status
    place(card, id)
  }
}

function newCard(id) {
  const card = document.getElementById('card').content.firstElementChild.cloneNode(true)
  card.dataset.id = id
  card.querySelector('.next').addEventListener('click', () => {
    const [status] = NEXT[card.dataset.status]
    run('UPDATE orders SET status = $2 WHERE id = $1', [Number(id), status])
  })
  card.querySelector('.remove').addEventListener('click', () => {
    run('DELETE FROM orders WHERE id = $1', [Number(id)])
  })
  cards.set(id, card)
  return card
}

// In the column of its status, by number.
function place(card, id) {
  const column = document.querySelector(`ol[data-status="${card.dataset.status}"]`)
  const later = [...column.children].find((other) => other !== card && Number(other.dataset.id) > Number(id))
  if (card.parentElement === column && card.nextElementSibling === (later ?? null)) return
  column.insertBefore(card, later ?? null)
}

function showTotals(rows) {
  for (const total of document.querySelectorAll('dd[data-status]')) {
    const row = [...rows.values()].find(([status]) => status === total.dataset.status)
    total.textContent = row ? row[1] : 0
  }
}

function connection(state) {
  const shown = document.getElementById('connection')
  shown.dataset.state = state
  shown.textContent = state === 'live' ? 'Live' : 'Connection lost, trying again …'
}

function problem(message) {
  document.getElementById('problem').textContent = message
}

// ---- what is done ----

async function run(sql, params = []) {
  try {
    const answer = await fetch(`${server}/v1/sql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ sql, params }),
    })
    const body = await answer.json()
    problem(answer.ok ? '' : body.error.message)
    return answer.ok
  } catch {
    problem('The server cannot be reached.')
    return false
  }
}

const form = document.getElementById('new-order')
form.addEventListener('submit', async (event) => {
  event.preventDefault()
  const { customer, item, quantity } = Object.fromEntries(new FormData(form))
  const added = await run(
    "INSERT INTO orders (customer, item, quantity, status) VALUES ($1, $2, $3, 'pending')",
    [customer, item, Number(quantity)],
  )
  if (added) {
    form.reset()
    document.getElementById('customer').focus()
  }
})

await run(`CREATE TABLE IF NOT EXISTS orders (
  id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  customer text NOT NULL, item text NOT NULL, quantity integer NOT NULL CHECK (quantity > 0),
  status text NOT NULL CHECK (status IN ('pending', 'packed', 'shipped')))`)
live('SELECT id, customer, item, quantity, status FROM orders', showOrders)
live('SELECT status, sum(quantity) FROM orders GROUP BY status', showTotals)
