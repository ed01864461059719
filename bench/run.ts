// run.ts [--in FOLDER] [--lab] [--pairs N] [FILTER...]: runs bench/*.bench.ts, or those of a folder below bench,
// one after the other, keeps the figures in bench/results/ and fails when a limit is missed beyond doubt.
// --lab: in the lab guest, where KVM works (docs/lab-guest.md).
import { readdirSync } from "node:fs";
import { loadavg } from "node:os";
import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import type { Bench, RunFigure } from "./bench.ts";
import { type Figure, type Machine, describeFigure, keepResults } from "./figures.ts";
import { benchInLab, shortEnoughForTheLab } from "./in-lab.ts";
import { describeMachine } from "./machine.ts";
import { comparePairs, isMissed, measurePairs, minPairs, oneMinuteLoad } from "./pairs.ts";

/** How the whole run was asked for. */
interface RunOptions {
  readonly folder: string;
  readonly lab: boolean;
  /** Instead of each bench's own number of pairs. */
  readonly pairs: number | undefined;
  readonly filters: readonly string[];
}

async function main({ folder, lab, pairs, filters }: RunOptions): Promise<void> {
  const wanted = (name: string): boolean => (filters.length === 0 ? !lab || shortEnoughForTheLab(name) : filters.some((filter) => `/${name}`.includes(filter)));
  const names = readdirSync(folder).filter((name) => name.endsWith(".bench.ts") && wanted(name)).sort();
  if (names.length === 0) throw new Error("there is no bench with such a name");
  const began = performance.now();
  const onFigure = (figure: Figure): void => console.log(describeFigure(figure));
  const { machine, figures } = lab
    ? await benchInLab(names.map((name) => relative(join(import.meta.dirname, ".."), join(folder, name))), pairs ?? minPairs, onFigure)
    : { machine: await describeMachine(), figures: await runBenches(folder, names, pairs, onFigure) };
  keepResults(machine, figures);
  const missed = figures.filter((figure) => figure.missed).length;
  console.log(nameMachine(machine));
  console.log(`${figures.length - missed} within their limits, ${missed} not; ${Math.round((performance.now() - began) / 1000)} s; load ${loadavg().map((load) => load.toFixed(1)).join(" ")}`);
  process.exitCode = missed === 0 ? 0 : 1;
}

function nameMachine({ cpu, cores, kernel, node, qemu, accelerator }: Machine): string {
  return `${accelerator}, ${cores} × ${cpu}, Linux ${kernel}, ${qemu}, Node ${node}`;
}

async function runBenches(folder: string, names: readonly string[], pairs: number | undefined, onFigure: (figure: Figure) => void): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const name of names) {
    for (const figure of await runBench(folder, name, pairs)) {
      figures.push(figure);
      onFigure(figure);
    }
  }
  return figures;
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

const { values, positionals } = parseArgs({ allowPositionals: true, options: { in: { type: "string", default: "." }, lab: { type: "boolean", default: false }, pairs: { type: "string" } } });
await main({ folder: join(import.meta.dirname, values.in), lab: values.lab, pairs: values.pairs === undefined ? undefined : Number(values.pairs), filters: positionals });
