/**
 * Server-Sent Events from a stream of bytes (WHATWG HTML, section 9.2.6), for `fetch`: unlike an
 * EventSource it can send a token and tells why it was refused.
 */

export interface ServerSentEvent {
  /** The event's type; `message` if it names none. */
  event: string
  data: string
  /** The id that this event sets, if it does. */
  id: string | undefined
  /** How long the server asks to wait before another try, if this event says so. */
  retryMs: number | undefined
}

/** Yields the events of `stream` until it ends. What an event has no blank line after is dropped. */
export async function* events(stream: ReadableStream<Uint8Array>): AsyncGenerator<ServerSentEvent> {
  const reader = stream.getReader()
  const parser = new EventParser()
  const decoder = new TextDecoder()
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      yield* parser.push(decoder.decode(value, { stream: true }))
    }
  } finally {
    await reader.cancel().catch(() => undefined)
  }
}

/** Text in, events out; text may be cut anywhere. */
export class EventParser {
  #rest = ''
  #data: string[] = []
  #event = ''
  #id: string | undefined
  #retryMs: number | undefined
  #begun = false

  /** The events that are complete with `text`. */
  push(text: string): ServerSentEvent[] {
    this.#rest += text
    if (!this.#begun && this.#rest !== '') {
      this.#begun = true
      if (this.#rest.startsWith('\uFEFF')) this.#rest = this.#rest.slice(1)
    }
    const found: ServerSentEvent[] = []
    let at = 0
    for (;;) {
      const end = this.#lineEnd(at)
      if (end === undefined) break
      this.#line(this.#rest.slice(at, end.start), found)
      at = end.after
    }
    this.#rest = this.#rest.slice(at)
    return found
  }

  /** Where the line that begins at `at` ends. A CR at the very end may be half of a CRLF: wait. */
  #lineEnd(at: number): { start: number; after: number } | undefined {
    for (let i = at; i < this.#rest.length; i++) {
      const c = this.#rest.charCodeAt(i)
      if (c === 10) return { start: i, after: i + 1 }
      if (c === 13) {
        if (i + 1 === this.#rest.length) return undefined
        return { start: i, after: this.#rest.charCodeAt(i + 1) === 10 ? i + 2 : i + 1 }
      }
    }
    return undefined
  }

  #line(line: string, found: ServerSentEvent[]): void {
    if (line === '') return this.#dispatch(found)
    const colon = line.indexOf(':')
    if (colon === 0) return
    const field = colon < 0 ? line : line.slice(0, colon)
    let value = colon < 0 ? '' : line.slice(colon + 1)
    if (value.startsWith(' ')) value = value.slice(1)
    if (field === 'data') this.#data.push(value)
    else if (field === 'event') this.#event = value
    else if (field === 'id' && !value.includes('\0')) this.#id = value
    else if (field === 'retry' && /^[0-9]+$/.test(value)) this.#retryMs = Number(value)
  }

  #dispatch(found: ServerSentEvent[]): void {
    if (this.#data.length > 0 || this.#id !== undefined || this.#retryMs !== undefined) {
      found.push({
        event: this.#event === '' ? 'message' : this.#event,
        data: this.#data.join('\n'),
        id: this.#id,
        retryMs: this.#retryMs,
      })
    }
    this.#data = []
    this.#event = ''
    this.#id = undefined
    this.#retryMs = undefined
  }
}
