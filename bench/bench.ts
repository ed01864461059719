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

/** A figure that is what it is and needs no comparison, such as a count of descriptors. */
export interface ValueBench {
  readonly kind: "value";
  readonly title: string;
  readonly unit: string;
  readonly limit: Limit;
  readonly measure: Measure;
}

export type Bench = PairBench | ValueBench;
