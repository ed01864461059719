import { dirname, join } from "node:path";
import { adoptOrphans } from "../scripts/test-runner/descendants.ts";
import type { FileResult } from "../scripts/test-runner/run-file.ts";
import { stateFolders } from "../src/host/store/paths.ts";
import { labObstacle } from "../test/lab/lab-guest.ts";
import { runInLab } from "../test/lab/run-in-lab.ts";
import { type Figure, type Results, readResults } from "./figures.ts";

/** Everything in the guest is 3 to 10 times slower; the benches that are left take a minute or two each. */
const timeoutMs = 30 * 60_000;
const tooLong: readonly string[] = ["cycles.bench.ts", "dirty.bench.ts", "fork-chain.bench.ts"];

/** Whether a bench is run there when none is named. */
export function shortEnoughForTheLab(name: string): boolean {
  return !tooLong.includes(name);
}

/** Runs benches in the lab guest, each in a process of its own. Files are relative to the repository. @throws Error when no bench came to its end. */
export async function benchInLab(files: readonly string[], pairs: number, onFigure: (figure: Figure) => void): Promise<Pick<Results, "machine" | "figures">> {
  const obstacle = labObstacle();
  if (obstacle !== undefined) throw new Error(`no lab guest here: ${obstacle}`);
  adoptOrphans();
  const root = join(import.meta.dirname, "..");
  const figures: Figure[] = [];
  let machine: Results["machine"] | undefined;
  const add = (figure: Figure): void => {
    figures.push(figure);
    onFigure(figure);
  };
  const onResult = ({ title, problems, outputFile }: FileResult): void => {
    const results = readResults(dirname(outputFile));
    machine ??= results?.machine;
    if (results === undefined) add(missing(title, problems.join("; ")));
    else if (results.machine.accelerator !== "kvm") add(missing(title, "KVM did not boot a guest in time, so this was emulation in emulation"));
    else results.figures.forEach(add);
  };
  const lab = await runInLab({ root, folders: stateFolders(undefined), outputFolder: join(root, "test-output/lab"), files, benchPairs: pairs, timeoutMs, onResult, onProblem: (text) => console.log(`lab guest: ${text}`) });
  for (const failure of lab.failures) console.log(`lab guest given up: ${failure}`);
  for (const file of lab.missing) add(missing(file, "no result"));
  if (machine === undefined) throw new Error("no bench came to its end");
  return { machine, figures };
}

function missing(bench: string, error: string): Figure {
  return { bench, title: bench, unit: "", missed: true, error };
}
