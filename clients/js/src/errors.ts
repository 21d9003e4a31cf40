/**
 * What goes wrong, as types: what the server refuses comes with its code and its hint.
 */

/** The members of the server's error object. */
export interface ErrorBody {
  code: string
  message: string
  sqlstate?: string
  hint?: string
  earliest_lsn?: number
  fork_lsn?: number
}

/** The server refused something, or answered what is no answer. */
export class SpringheadError extends Error {
  override readonly name: string = 'SpringheadError'
  /** The word for it, the same on every exit, e.g. `unique_violation`. */
  readonly code: string
  /** Five characters, as PostgreSQL's; of Springhead's own errors they begin with `SH`. */
  readonly sqlstate: string | undefined
  /** What to do about it. */
  readonly hint: string | undefined
  /** The HTTP status, where there was one. */
  readonly status: number | undefined

  constructor(body: ErrorBody, status?: number) {
    super(body.message)
    this.code = body.code
    this.sqlstate = body.sqlstate
    this.hint = body.hint
    this.status = status
  }

  /** Whether the same request may succeed later: overload, a standby that is behind, a restart. */
  get isTransient(): boolean {
    return this.status === 503 || this.status === 429 || this.status === 502 || this.status === 504
  }
}

/** A cursor that one cannot go on from: take a new snapshot. */
export class RefetchError extends SpringheadError {
  override readonly name = 'RefetchError'
  /** The earliest LSN that the server still has. */
  readonly earliestLsn: number | undefined
  /** The last LSN that the cursor's history shares with the present one. */
  readonly forkLsn: number | undefined

  constructor(body: ErrorBody, status?: number) {
    super(body, status)
    this.earliestLsn = body.earliest_lsn
    this.forkLsn = body.fork_lsn
  }
}

/** Reads the error of an answer, whatever is in it. */
export async function errorOf(answer: Response): Promise<SpringheadError> {
  const text = await answer.text().catch(() => '')
  let body: ErrorBody = {
    code: 'unexpected_answer',
    message: `the server answered ${answer.status}${text === '' ? '' : `: ${text.slice(0, 200)}`}`,
  }
  try {
    const parsed = (JSON.parse(text) as { error?: ErrorBody }).error
    if (typeof parsed?.code === 'string' && typeof parsed.message === 'string') body = parsed
  } catch {
    // Not JSON: something between here and the server answered.
  }
  return answer.status === 410 ? new RefetchError(body, 410) : new SpringheadError(body, answer.status)
}
