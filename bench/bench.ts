import type { Limit, Measure } from "./pairs.ts";

/** What the measurements of a bench stand on; given back at the end, whatever happened. */
export interface BenchSetup extends AsyncDisposable {
  /** What is judged. */
  readonly a: Measure;
  /** What it is judged against. */
  readonly b: Measure;
}

/** A ratio we promise to keep. The default export of a file `bench/NAME.bench.ts`. */
export interface PairBench {
  readonly kind: "pairs";
  /** What A ÷ B is, for a reader: `cold start to agent ready ÷ bare boot`. */
  readonly title: string;
  /** Unit of both measurements, e.g. `ms`, `MB/s`, `MB`. */
  readonly unit: string;
  readonly limit: Limit;
  readonly pairs: number;
  readonly open: () => Promise<BenchSetup>;
}

/** Figures that come out of one long run together. */
export interface RunBench {
  readonly kind: "run";
  readonly title: string;
  /** `pairs`: how many samples each figure should have, at least 5. */
  readonly pairs: number;
  readonly run: (pairs: number) => Promise<readonly RunFigure[]>;
}

/** One figure of a {@link RunBench}: samples of two things taken side by side, or one value with its interval. */
export interface RunFigure {
  readonly title: string;
  readonly unit: string;
  readonly limit: Limit;
  readonly samples: { readonly as: readonly number[]; readonly bs: readonly number[] } | Estimate;
}

/** A value and the 90 % interval it lies in; for a count, the value itself twice. */
export interface Estimate {
  readonly value: number;
  readonly interval: readonly [low: number, high: number];
}

export type Bench = PairBench | RunBench;

/** An estimate without doubt. */
export function exactly(value: number): Estimate {
  return { value, interval: [value, value] };
}
