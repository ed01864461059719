import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Estimate } from "./bench.ts";
import type { Limit, PairResult } from "./pairs.ts";

/** What is kept of one figure. */
export interface Figure {
  readonly bench: string;
  readonly title: string;
  readonly unit: string;
  readonly limit?: Limit;
  readonly missed: boolean;
  readonly pairs?: PairResult;
  readonly estimate?: Estimate;
  /** Why there is no figure. */
  readonly error?: string;
}

/** What figures depend on. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly kernel: string;
  readonly node: string;
  readonly qemu: string;
  readonly accelerator: string;
}

/** The figures of one run, as kept in a file. */
export interface Results {
  /** ISO 8601. */
  readonly time: string;
  readonly machine: Machine;
  readonly figures: readonly Figure[];
}

/** Where benches write: bench/results, or where whoever started the run collects it. */
export function resultsFolder(): string {
  return process.env["CASEMATE_TEST_OUTPUT"] ?? join(import.meta.dirname, "results");
}

/** Writes what a run found. */
export function keepResults(machine: Machine, figures: readonly Figure[]): void {
  const folder = resultsFolder();
  mkdirSync(folder, { recursive: true });
  const time = new Date().toISOString();
  writeFileSync(join(folder, `results-${time.replaceAll(":", "-")}.json`), JSON.stringify({ time, machine, figures } satisfies Results, undefined, 1));
}

/** What the one run that wrote to this folder found; undefined when it did not come to its end. */
export function readResults(folder: string): Results | undefined {
  const name = readdirSync(folder).find((one) => /^results-.*\.json$/.test(one));
  return name === undefined ? undefined : JSON.parse(readFileSync(join(folder, name), "utf8")) as Results; // written by keepResults()
}

/** One line for a reader. */
export function describeFigure({ title, unit, limit, missed, pairs, estimate, error }: Figure): string {
  const head = `${missed ? "MISSED" : "ok    "} ${title}:`;
  if (error !== undefined || limit === undefined) return `${head} ${error ?? ""}`;
  const bound = "atMost" in limit ? `at most ${limit.atMost}` : `at least ${limit.atLeast}`;
  if (estimate !== undefined) {
    const { value, interval: [low, high] } = estimate;
    return `${head} ${round(value)} ${unit} (${low === high ? "" : `90 % between ${round(low)} and ${round(high)}; `}${bound})`;
  }
  if (pairs === undefined) return head;
  const { medianRatio, interval: [low, high], medianA, medianB, ratios, load } = pairs;
  return `${head} ${medianRatio.toFixed(2)} (90 % between ${low.toFixed(2)} and ${high.toFixed(2)} of ${ratios.length} pairs; ${bound}); ${medianA.toPrecision(4)} ÷ ${medianB.toPrecision(4)} ${unit}; load ${load.map((one) => one.toFixed(1)).join(" to ")}`;
}

function round(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toFixed(2);
}
