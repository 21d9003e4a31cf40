/** The device's clocks. */

export function nowMs(): number {
  return Date.now()
}

/** The hybrid clock's reading after `last` (Kulkarni et al. 2014): never lower than the wall clock. */
export function tick(last: bigint, ms: number): bigint {
  const wall = BigInt(ms) << 16n
  return wall > last ? wall : last + 1n
}
