/** A list and a note that are written with or without a network, by several tabs, browsers and people. */

import { Device, violationText } from 'springhead'
import { moved, sharedText } from 'springhead/crdt'
import { server } from './config.js'

const $ = (id) => document.getElementById(id)

const device = await Device.open({ name: 'todo', url: server, client: 'todo-example/1' })
const todos = device.collection('todos')
const notes = device.collection('notes')
const note = sharedText(device, 'notes', 'shared', 'body')
await device.subscribe('todos')
await device.subscribe('notes')

// How things are

const WORDS = { alone: 'Not connected', offline: 'Offline', connecting: 'Connecting', online: 'Online', elsewhere: 'Open elsewhere', refused: 'Refused' }

device.onStatus(({ state, pending, persistent, error }) => {
  const shown = state === 'connecting' && $('connection').dataset.state === 'offline' ? 'offline' : state
  const waiting = pending === 0 ? '' : ` · ${pending} waiting`
  $('connection').textContent = WORDS[shown] + waiting
  $('connection').dataset.state = shown
  $('connection').title = error?.message ?? ''
  $('offline').hidden = shown !== 'offline'
  $('storage').hidden = persistent || sessionStorage.getItem('storage-seen') !== null
})

$('storage-seen').addEventListener('click', () => {
  sessionStorage.setItem('storage-seen', '')
  $('storage').hidden = true
})

// The list

$('add').addEventListener('submit', (event) => {
  event.preventDefault()
  const title = $('title').value.trim()
  if (title === '') return
  void todos.put({ id: crypto.randomUUID(), title, done: false, votes: 0 })
  $('title').value = ''
})

/** Rows by document: they are kept, so that focus and selection are. */
const rows = new Map()

function newRow(id) {
  const row = $('todo-row').content.firstElementChild.cloneNode(true)
  row.querySelector('input').addEventListener('change', ({ target }) => void todos.patch(id, { done: target.checked }))
  row.querySelector('.vote').addEventListener('click', () => void todos.inc(id, { votes: 1 }))
  row.querySelector('.delete').addEventListener('click', () => void todos.delete(id))
  rows.set(id, row)
  return row
}

function showTodos() {
  const documents = todos.query({ orderBy: ['done', '-votes', 'title'] })
  for (const { id, title, done, votes } of documents) {
    const row = rows.get(id) ?? newRow(id)
    row.className = done ? 'done' : ''
    row.querySelector('input').checked = done
    row.querySelector('.title').textContent = title
    row.querySelector('.mark').textContent = todos.isPending(id) ? 'waiting' : ''
    row.querySelector('.vote').textContent = `▲ ${votes}`
    row.querySelector('.vote').setAttribute('aria-label', `Vote for ${title}, ${votes} so far`)
    row.querySelector('.delete').setAttribute('aria-label', `Delete ${title}`)
  }
  const shown = documents.map(({ id }) => rows.get(id))
  for (const [id, row] of rows) {
    if (shown.includes(row)) continue
    row.remove()
    rows.delete(id)
  }
  shown.forEach((row, at) => {
    if ($('todos').children[at] !== row) $('todos').insertBefore(row, $('todos').children[at] ?? null)
  })
  $('empty').hidden = documents.length > 0
}

// The note

/** What the field showed when its text was last the note's: what is typed is the difference to it. */
let base = ''

$('note').addEventListener('input', () => {
  const next = $('note').value
  const before = base
  base = next
  void note.replace(next, before)
})

function showNote() {
  const field = $('note')
  const body = note.value
  // What was typed and is not written yet will be, and then the note is as shown, or newer.
  if (!note.isWriting && field.value !== body) {
    const [start, end] = [field.selectionStart, field.selectionEnd].map((place) => moved(field.value, body, place))
    field.value = body
    if (document.activeElement === field) field.setSelectionRange(start, end)
  }
  if (!note.isWriting) base = field.value
  field.disabled = notes.get('shared') === undefined
  $('note-mark').textContent = notes.isPending('shared') ? 'waiting' : ''
}

// What the server has not taken

function showRejections() {
  const rejections = device.rejections()
  $('rejections').hidden = rejections.length === 0
  $('rejection-list').replaceChildren(...rejections.map(rejectionRow))
}

function rejectionRow(rejection) {
  const row = $('rejection-row').content.firstElementChild.cloneNode(true)
  const written = rejection.operations.map(({ insert, set }) => (insert ?? set)?.title).find(Boolean)
  const { violation, hint } = rejection
  const reason =
    violation.type === 'unique' ? `there is another “${violation.value}”.` : `the server said ${violationText(violation)}.`
  row.querySelector('.what').textContent = `${written ? `“${written}”` : 'A change'} was not saved: ${reason}`
  const fix = hint.fixes?.find((known) => known.fix === 'set_column')
  const button = row.querySelector('.fix')
  button.hidden = fix === undefined
  if (fix) {
    button.textContent = `Use “${fix.value}”`
    button.addEventListener('click', () => void device.retry(rejection.id, fix))
  }
  row.querySelector('.discard').addEventListener('click', () => void device.acknowledge(rejection.id))
  return row
}

// One redraw for all that has changed since the last frame.

let drawing = false

function draw() {
  drawing = false
  showTodos()
  showNote()
  showRejections()
}

device.onStatus(() => {
  if (drawing) return
  drawing = true
  requestAnimationFrame(draw)
})
