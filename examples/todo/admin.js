/** Dead letters for whoever looks after them: seen, tried again, resolved. */

import { Client } from 'springhead'
import { server } from './config.js'

const $ = (id) => document.getElementById(id)
const { http } = new Client({ url: server })

async function show() {
  const { entries } = await http.send('GET', '/v1/dead-letters?resolved=false')
  const whole = await Promise.all(entries.map(({ id }) => http.send('GET', `/v1/dead-letters/${id}`)))
  $('letters').replaceChildren(...whole.map(row))
  $('empty').hidden = whole.length > 0
  $('redrive').disabled = whole.length === 0
}

function row(letter) {
  const made = $('letter-row').content.firstElementChild.cloneNode(true)
  const put = (name, text) => (made.querySelector(`.${name}`).textContent = text)
  put('id', letter.id)
  put('change', changes(letter.operations))
  put('violation', letter.violation)
  put('by', letter.username ?? '')
  put('since', new Date(letter.created_at).toLocaleString())
  for (const [name, act] of [['retry', retry], ['resolve', resolve]]) {
    const button = made.querySelector(`.${name}`)
    button.setAttribute('aria-label', `${button.textContent} ${letter.id}`)
    button.addEventListener('click', () => void attempt(() => act(letter.id)))
  }
  return made
}

/** What the change does, in a line for each operation; ids mean little to people. */
function changes(operations) {
  return operations.map(({ in: collection, id, ...verbs }) => `${collection}: ${verb(verbs, id)}`).join('\n')
}

function verb(verbs, id) {
  const [[name, columns]] = Object.entries(verbs)
  if (columns === true) return name
  const shown = Object.entries(columns).filter(([, value]) => !id.includes(value))
  return `${name} ${shown.map(([column, value]) => `${column} = ${JSON.stringify(value)}`).join(', ')}`
}

async function retry(id) {
  await http.send('POST', `/v1/dead-letters/${id}/retry`, {})
  return `${id} is applied.`
}

async function resolve(id) {
  await http.send('POST', `/v1/dead-letters/${id}/resolve`, { note: 'by hand' })
  return `${id} is resolved.`
}

async function redrive() {
  const { applied, rejected } = await http.send('POST', '/v1/dead-letters/redrive', { collection: 'todos', rate_per_s: 100 })
  return `${applied} applied, ${rejected} rejected again.`
}

async function attempt(act) {
  try {
    $('outcome').textContent = await act()
  } catch (error) {
    $('outcome').textContent = `Not applied: ${error.message}`
  }
  await show()
}

$('redrive').addEventListener('click', () => void attempt(redrive))
$('reload').addEventListener('click', () => void attempt(async () => ''))
await show()
