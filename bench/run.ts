// run.ts [FILTER...]: runs bench/*.bench.ts one after the other, keeps the figures in bench/results/ and
// fails when a limit is missed beyond doubt.
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, release } from "node:os";
import { join } from "node:path";
import type { Bench } from "./bench.ts";
import { type Limit, type PairResult, isMissed, measurePairs } from "./pairs.ts";

/** What is kept of one bench. */
interface Figure {
  readonly bench: string;
  readonly title: string;
  readonly unit: string;
  readonly limit: Limit;
  readonly missed: boolean;
  readonly pairs?: PairResult;
  readonly value?: number;
  /** Why there is no figure. */
  readonly error?: string;
}

const folder = import.meta.dirname;

async function main(filters: readonly string[]): Promise<void> {
  const names = readdirSync(folder).filter((name) => name.endsWith(".bench.ts") && (filters.length === 0 || filters.some((filter) => name.includes(filter)))).sort();
  if (names.length === 0) throw new Error("there is no bench with such a name");
  const figures: Figure[] = [];
  for (const name of names) {
    const figure = await runBench(name);
    figures.push(figure);
    console.log(describe(figure));
  }
  keep(figures);
  const missed = figures.filter((figure) => figure.missed).length;
  console.log(`${figures.length - missed} within their limits, ${missed} not; load ${loadavg().map((load) => load.toFixed(1)).join(" ")}`);
  process.exitCode = missed === 0 ? 0 : 1;
}

async function runBench(name: string): Promise<Figure> {
  const module = await import(join(folder, name)) as { readonly default: Bench }; // every *.bench.ts exports one; bench.ts says so
  const bench = module.default;
  const { title, unit, limit } = bench;
  try {
    if (bench.kind === "value") {
      const value = await bench.measure();
      return { bench: name, title, unit, limit, value, missed: isMissed(limit, [value, value]) };
    }
    await using setup = await bench.open();
    const pairs = await measurePairs(setup.a, setup.b, bench.pairs);
    return { bench: name, title, unit, limit, pairs, missed: isMissed(limit, pairs.interval) };
  } catch (error) {
    // A figure that cannot be taken is a promise that is not kept; the others are still of interest.
    return { bench: name, title, unit, limit, missed: true, error: error instanceof Error ? error.stack ?? error.message : String(error) };
  }
}

function describe({ title, unit, limit, missed, pairs, value, error }: Figure): string {
  const bound = "atMost" in limit ? `at most ${limit.atMost}` : `at least ${limit.atLeast}`;
  const head = `${missed ? "MISSED" : "ok    "} ${title}:`;
  if (error !== undefined) return `${head} ${error}`;
  if (pairs === undefined) return `${head} ${value ?? NaN} ${unit} (${bound})`;
  const { medianRatio, interval: [low, high], medianA, medianB, ratios, load } = pairs;
  return `${head} ${medianRatio.toFixed(2)} (90 % between ${low.toFixed(2)} and ${high.toFixed(2)} of ${ratios.length} pairs; ${bound}); ${medianA.toPrecision(4)} ÷ ${medianB.toPrecision(4)} ${unit}; load ${load.map((one) => one.toFixed(1)).join(" to ")}`;
}

function keep(figures: readonly Figure[]): void {
  const results = join(folder, "results");
  mkdirSync(results, { recursive: true });
  const time = new Date().toISOString();
  const machine = { cpu: cpus()[0]?.model ?? "unknown", cores: availableParallelism(), kernel: release(), node: process.version };
  writeFileSync(join(results, `${time.replaceAll(":", "-")}.json`), JSON.stringify({ time, machine, figures }, undefined, 1));
}

await main(process.argv.slice(2));
