/** What a rejected mutation violated. */
export type Violation =
  | { type: 'policy' | 'permission_denied' | 'schema_stale' | 'malformed' | 'too_large' }
  | { type: 'unique'; column: string; value: string }
  | { type: 'foreign_key' | 'not_null' | 'type'; column: string }
  | { type: 'check'; constraint: string }
  | { type: 'constraint'; detail: string }

/** Its stable text, the same as in dead letters: `unique:title=milk`. */
export function violationText(violation: Violation): string {
  switch (violation.type) {
    case 'unique':
      return `unique:${violation.column}=${violation.value}`
    case 'foreign_key':
    case 'not_null':
    case 'type':
      return `${violation.type}:${violation.column}`
    case 'check':
      return `check:${violation.constraint}`
    case 'constraint':
      return `constraint:${violation.detail}`
    default:
      return violation.type
  }
}
