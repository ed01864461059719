import { loadavg } from "node:os";

/** What a figure may be. Exactly one of the two. */
export type Limit =
  | { readonly atMost: number }
  | { readonly atLeast: number };

/** One measurement of either side, in any unit as long as both use the same. */
export type Measure = () => Promise<number>;

/** The outcome of measuring A against B in pairs. */
export interface PairResult {
  /** A ÷ B of each pair, in the order measured. */
  readonly ratios: readonly number[];
  readonly medianRatio: number;
  /** 90 % interval of the median. */
  readonly interval: readonly [low: number, high: number];
  readonly medianA: number;
  readonly medianB: number;
  /** The machine's load average of one minute, before and after. */
  readonly load: readonly [before: number, after: number];
}

/** Below 5 pairs no interval of 90 % exists: the two extremes hold the median with 1 - 2 · 0.5^n. */
export const minPairs = 5;

/**
 * Measures A, B, A, B, ... in one run, so that whatever else the machine does falls on both, and looks
 * at the ratio of each pair. The first pair warms caches up and is not counted.
 */
export async function measurePairs(a: Measure, b: Measure, pairs: number): Promise<PairResult> {
  const before = oneMinuteLoad();
  await a();
  await b();
  const as: number[] = [];
  const bs: number[] = [];
  for (let pair = 0; pair < pairs; pair++) {
    as.push(await a());
    bs.push(await b());
  }
  return comparePairs(as, bs, before);
}

/** The outcome for samples that were taken in pairs already; `loadBefore` is the machine's load average before the first. */
export function comparePairs(as: readonly number[], bs: readonly number[], loadBefore: number): PairResult {
  const ratios = as.map((value, index) => value / (bs[index] ?? NaN));
  return { ratios, medianRatio: median(ratios), interval: medianInterval(ratios), medianA: median(as), medianB: median(bs), load: [loadBefore, oneMinuteLoad()] };
}

/**
 * The slope of a line through points that jump (a garbage collector's heap), and its 90 % interval:
 * the median of the slopes of all pairs of points, and the order statistics of Sen's method, which
 * asks nothing of how the jumps are distributed.
 */
export function medianSlope(points: readonly (readonly [x: number, y: number])[]): { readonly value: number; readonly interval: readonly [low: number, high: number] } {
  const slopes = points.flatMap(([x1, y1], index) => points.slice(index + 1).map(([x2, y2]) => (y2 - y1) / (x2 - x1))).sort((a, b) => a - b);
  const n = points.length;
  // Kendall's S of n independent points has this deviation; 1.645 of them hold 90 %.
  const spread = 1.645 * Math.sqrt((n * (n - 1) * (2 * n + 5)) / 18);
  const low = Math.max(0, Math.floor((slopes.length - spread) / 2));
  return { value: median(slopes), interval: [at(slopes, low), at(slopes, slopes.length - 1 - low)] };
}

/** The middle value, or the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((x, y) => x - y);
  const middle = sorted.length / 2;
  return (at(sorted, Math.floor(middle - 0.5)) + at(sorted, Math.floor(middle))) / 2;
}

/**
 * The narrowest symmetric pair of order statistics that holds the true median with at least 90 %,
 * whatever the distribution: of n values, the k-th smallest is above the median with probability
 * P(Binomial(n, 1/2) < k), so k grows while that stays within 5 %.
 */
export function medianInterval(values: readonly number[]): readonly [low: number, high: number] {
  const n = values.length;
  if (n < minPairs) throw new Error(`${n} pairs: an interval needs at least ${minPairs}`);
  const sorted = values.toSorted((x, y) => x - y);
  let k = 0;
  for (let tail = 0, term = 0.5 ** n; tail + term <= 0.05; k++) {
    tail += term;
    term *= (n - k) / (k + 1);
  }
  return [at(sorted, k - 1), at(sorted, n - k)];
}

/** True if the limit is missed beyond doubt: the whole interval is on its wrong side. */
export function isMissed(limit: Limit, [low, high]: readonly [low: number, high: number]): boolean {
  return "atMost" in limit ? low > limit.atMost : high < limit.atLeast;
}

function at(sorted: readonly number[], index: number): number {
  const value = sorted[index];
  if (value === undefined) throw new Error(`no value at ${index} of ${sorted.length}`);
  return value;
}

/** The machine's load average of one minute. */
export function oneMinuteLoad(): number {
  return loadavg()[0] ?? NaN;
}
