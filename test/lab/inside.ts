// inside.ts SHARE: runs the ordered test files and benches in the lab guest and reports each by the share.
import { readFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { readResults } from "../../bench/figures.ts";
import { adoptOrphans } from "../../scripts/test-runner/descendants.ts";
import { outputName } from "../../scripts/test-runner/plan.ts";
import { prepareMachine } from "../../scripts/test-runner/prepare-machine.ts";
import { type FileResult, type ProgramRun, runProgram, runTestFiles } from "../../scripts/test-runner/run-file.ts";
import { VmCount } from "../../scripts/test-runner/vm-count.ts";
import { Deadline } from "../../src/shared/base/deadline.ts";
import { describeError } from "../../src/shared/base/errors.ts";
import { describeExit } from "../../src/shared/linux/run-process.ts";
import { type LabOrder, aliveIntervalMs, labFiles, tell, tellsOfBrokenGuest } from "./report.ts";

const root = join(import.meta.dirname, "../..");
const share = process.argv[2] ?? "";

async function main(): Promise<void> {
  const order = JSON.parse(readFileSync(labFiles(share).order, "utf8")) as LabOrder; // written by run-in-lab.ts alone
  const deadline = Deadline.after(order.timeoutMs);
  const alive = setInterval(() => tell(share, { type: "alive" }), aliveIntervalMs);
  adoptOrphans();
  const vms = new VmCount();
  // Here the product meets this machine for the first time: it finds KVM by itself and makes its template with it.
  await prepare();
  for (const file of order.files) {
    const outputFolder = join(share, `boot-${order.boot}`, outputName(file));
    const run = { root, title: `${file}, in the lab guest`, outputFolder, timeoutMs: deadline.remainingMs };
    const result = await (file.endsWith(".bench.ts") ? runBench(run, file, order.benchPairs) : runTestFiles({ ...run, files: [file] }));
    tell(share, { type: "result", file, result });
  }
  vms.stop();
  clearInterval(alive);
  tell(share, { type: "end", vmCount: vms.count, vmSeconds: vms.seconds });
}

async function prepare(): Promise<void> {
  for (let triesLeft = 2; ; triesLeft--) {
    try {
      console.log(await prepareMachine(root));
      return;
    } catch (error) {
      const text = `prepare the machine: ${describeError(error)}`;
      if (triesLeft > 0 && tellsOfBrokenGuest(text)) {
        console.log(text);
        continue;
      }
      tell(share, { type: "problem", text });
      return;
    }
  }
}

/** A figure above its limit is no problem, one that could not be taken is. */
function runBench(run: ProgramRun, file: string, pairs: number): Promise<FileResult> {
  const args = [join(root, "bench/run.ts"), "--in", relative("bench", dirname(file)), "--pairs", String(pairs), `/${basename(file)}`];
  return runProgram(run, args, (exit) => {
    const results = readResults(run.outputFolder);
    return results === undefined ? [`the bench ended before its figures: ${describeExit(exit)}`] : results.figures.flatMap(({ error }) => error ?? []);
  });
}

await main();
