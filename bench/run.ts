// run.ts [--in FOLDER] [--pairs N] [FILTER...]: runs bench/*.bench.ts, or those of a folder below bench,
// one after the other, keeps the figures in bench/results/ and fails when a limit is missed beyond doubt.
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, release } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Bench, Estimate, RunFigure } from "./bench.ts";
import { type Limit, type PairResult, comparePairs, isMissed, measurePairs, oneMinuteLoad } from "./pairs.ts";

/** What is kept of one figure. */
interface Figure {
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

/** How the whole run was asked for. */
interface RunOptions {
  readonly folder: string;
  /** Instead of each bench's own number of pairs. */
  readonly pairs: number | undefined;
  readonly filters: readonly string[];
}

const benchFolder = import.meta.dirname;

async function main({ folder, pairs, filters }: RunOptions): Promise<void> {
  const names = readdirSync(folder).filter((name) => name.endsWith(".bench.ts") && (filters.length === 0 || filters.some((filter) => name.includes(filter)))).sort();
  if (names.length === 0) throw new Error("there is no bench with such a name");
  const began = performance.now();
  const figures: Figure[] = [];
  for (const name of names) {
    for (const figure of await runBench(folder, name, pairs)) {
      figures.push(figure);
      console.log(describe(figure));
    }
  }
  keep(figures);
  const missed = figures.filter((figure) => figure.missed).length;
  console.log(`${figures.length - missed} within their limits, ${missed} not; ${Math.round((performance.now() - began) / 1000)} s; load ${loadavg().map((load) => load.toFixed(1)).join(" ")}`);
  process.exitCode = missed === 0 ? 0 : 1;
}

async function runBench(folder: string, name: string, pairCount: number | undefined): Promise<Figure[]> {
  const module = await import(join(folder, name)) as { readonly default: Bench }; // every *.bench.ts exports one; bench.ts says so
  const bench = module.default;
  try {
    if (bench.kind === "run") {
      const before = oneMinuteLoad();
      return (await bench.run(pairCount ?? bench.pairs)).map((figure) => judge(name, figure, before));
    }
    const { title, unit, limit } = bench;
    await using setup = await bench.open();
    const pairs = await measurePairs(setup.a, setup.b, pairCount ?? bench.pairs);
    return [{ bench: name, title, unit, limit, pairs, missed: isMissed(limit, pairs.interval) }];
  } catch (error) {
    // A figure that cannot be taken is a promise that is not kept; the others are still of interest.
    return [{ bench: name, title: bench.title, unit: "", missed: true, error: error instanceof Error ? error.stack ?? error.message : String(error) }];
  }
}

function judge(bench: string, { title, unit, limit, samples }: RunFigure, loadBefore: number): Figure {
  if ("value" in samples) return { bench, title, unit, limit, estimate: samples, missed: isMissed(limit, samples.interval) };
  const pairs = comparePairs(samples.as, samples.bs, loadBefore);
  return { bench, title, unit, limit, pairs, missed: isMissed(limit, pairs.interval) };
}

function describe({ title, unit, limit, missed, pairs, estimate, error }: Figure): string {
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

function keep(figures: readonly Figure[]): void {
  const results = join(benchFolder, "results");
  mkdirSync(results, { recursive: true });
  const time = new Date().toISOString();
  const machine = { cpu: cpus()[0]?.model ?? "unknown", cores: availableParallelism(), kernel: release(), node: process.version };
  writeFileSync(join(results, `${time.replaceAll(":", "-")}.json`), JSON.stringify({ time, machine, figures }, undefined, 1));
}

const { values, positionals } = parseArgs({ allowPositionals: true, options: { in: { type: "string", default: "." }, pairs: { type: "string" } } });
await main({ folder: join(benchFolder, values.in), pairs: values.pairs === undefined ? undefined : Number(values.pairs), filters: positionals });
