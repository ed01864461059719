import { closeSync, copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { FileResult } from "../../scripts/test-runner/run-file.ts";
import type { StateFolders } from "../../src/host/store/paths.ts";
import { Deadline, eventually } from "../../src/shared/base/deadline.ts";
import { flockExclusive } from "../../src/shared/linux/flock.ts";
import { readOptional } from "../../src/shared/linux/read-optional.ts";
import { terminateGroup } from "../../src/shared/linux/run-process.ts";
import { startLabGuest } from "./lab-guest.ts";
import { type LabLine, type LabOrder, labFiles, readReport, tellsOfBrokenGuest } from "./report.ts";

/** Which test files or benches to run in a lab guest. */
export interface LabRun {
  readonly root: string;
  /** Where the guest's kernel is found. */
  readonly folders: StateFolders;
  /** Below the repository; emptied first. Everything the guest wrote is in it. */
  readonly outputFolder: string;
  readonly files: readonly string[];
  /** Pairs of each bench. Default 5. */
  readonly benchPairs?: number;
  /** For all of it, with a second boot if one is needed. */
  readonly timeoutMs: number;
  /** Called as each file ends. */
  readonly onResult: (result: FileResult) => void;
  /** Called with what failed beside the tests. */
  readonly onProblem: (text: string) => void;
}

/** What a run in the lab came to, beside the results of its files. */
export interface LabSummary {
  readonly boots: number;
  /** Why guests were given up, one each; the last one is final when there are files without a result. */
  readonly failures: readonly string[];
  /** Files that no guest could run. */
  readonly missing: readonly string[];
  /** VMs that the tests booted in the guest. */
  readonly vmCount: number;
  readonly vmSeconds: number;
}

/** A guest that stops for ever is QEMU's fault (docs/lab-guest.md), not the tests': another is booted for the rest. */
const maxBoots = 3;
/**
 * With two vCPUs, each a thread of the emulator's, guests break (docs/lab-guest.md), and tests are hardly faster. Benches
 * are of programs that work side by side, as on the hosts they speak for.
 */
const vcpuCount = { tests: 1, benches: 2 } as const;
/** From QEMU's start to the first word, on a loaded machine; 7 s on an idle one. */
const firstWordMs = 150_000;
/** The guest says something every 2 s; its CPUs may be busy for a while. */
const silenceMs = 60_000;
/** Of the time for all: what the guest needs before and after its tests, so that a file that hangs is told by the guest. */
const bootAndEndMs = 30_000;
/** Time for the guest to turn itself off after its last word. */
const powerOffMs = 10_000;
const pollMs = 200;
const defaultBenchPairs = 5;
const consoleTailLines = 30;

/** Runs test files in a lab guest, one after the other. One guest at a time on a machine. */
export async function runInLab(run: LabRun): Promise<LabSummary> {
  const deadline = Deadline.after(run.timeoutMs);
  const lock = await takeLock(run.folders, deadline);
  try {
    rmSync(run.outputFolder, { recursive: true, force: true });
    mkdirSync(run.outputFolder, { recursive: true });
    return await bootUntilDone(run, deadline);
  } finally {
    closeSync(lock);
  }
}

async function takeLock(folders: StateFolders, deadline: Deadline): Promise<number> {
  mkdirSync(join(folders.data, "guest"), { recursive: true, mode: 0o711 });
  return eventually("wait for another lab guest of this machine to end", () => flockExclusive(join(folders.data, "guest/lab.lock")), { timeoutMs: deadline.remainingMs, intervalMs: 500 });
}

async function bootUntilDone(run: LabRun, deadline: Deadline): Promise<LabSummary> {
  const failures: string[] = [];
  const left = new Set(run.files);
  let boots = 0;
  let ended: BootEnd["end"];
  while (left.size > 0 && boots < maxBoots && !deadline.expired) {
    boots++;
    const order: LabOrder = { files: [...left], benchPairs: run.benchPairs ?? defaultBenchPairs, timeoutMs: Math.max(0, Math.round(deadline.remainingMs - bootAndEndMs)), boot: boots };
    const { failure, end } = await bootOnce(run, order, deadline, (line) => {
      if (line.type === "problem") run.onProblem(line.text);
      if (line.type !== "result") return;
      if (boots < maxBoots && failedByEmulator(line.result)) {
        failures.push(`${line.result.title}: a VM in it broke`);
        return;
      }
      left.delete(line.file);
      run.onResult(line.result);
    });
    ended = end;
    if (failure !== undefined) failures.push(failure);
  }
  return { boots, failures, missing: [...left], vmCount: ended?.vmCount ?? 0, vmSeconds: ended?.vmSeconds ?? 0 };
}

interface BootEnd {
  /** Undefined: every file has its result. */
  readonly failure: string | undefined;
  readonly end: Extract<LabLine, { type: "end" }> | undefined;
}

/** One guest from its boot to its end. */
async function bootOnce(run: LabRun, order: LabOrder, deadline: Deadline, onLine: (line: LabLine) => void): Promise<BootEnd> {
  const share = run.outputFolder;
  const files = labFiles(share);
  rmSync(files.report, { force: true });
  writeFileSync(files.order, JSON.stringify(order));
  const guest = await startLabGuest({ root: run.root, share, folders: run.folders, vcpuCount: vcpuCount[order.files.some((file) => file.endsWith(".bench.ts")) ? "benches" : "tests"] });
  let gone = false;
  const exited = guest.exited.then(() => { gone = true; }); // never rejects
  const hearing = new Hearing(share, onLine);
  try {
    const failure = await eventually("the end of the lab guest", () => {
      const over = gone; // asked first: what the guest said before its end is heard below
      hearing.listen();
      if (hearing.end !== undefined) return "";
      if (over) return "the guest ended before its tests did";
      if (deadline.expired) return `not done within ${Math.round(run.timeoutMs / 1000)} s`;
      return hearing.silentForMs > hearing.patienceMs ? `the guest said nothing for ${hearing.patienceMs / 1000} s` : undefined;
    }, { timeoutMs: Infinity, intervalMs: pollMs });
    if (failure !== "") return { failure: `${failure}\n${lastWords(share)}`, end: undefined };
    await Promise.race([exited, delay(powerOffMs, undefined, { ref: false })]);
    return { failure: undefined, end: hearing.end };
  } finally {
    await terminateGroup(guest.child, 0);
    keepLogs(share, order.boot);
  }
}

/** The next guest writes to the same files. */
function keepLogs(share: string, boot: number): void {
  const { console, startLog } = labFiles(share), folder = join(share, `boot-${boot}`);
  mkdirSync(folder, { recursive: true });
  for (const path of [console, startLog]) if (existsSync(path)) copyFileSync(path, join(folder, basename(path)));
}

/** Follows what one guest says. */
class Hearing {
  readonly #share: string;
  readonly #onLine: (line: LabLine) => void;
  #lineCount = 0;
  #heardAtMs = performance.now();
  /** Its last line, once it has come. */
  end: BootEnd["end"];

  constructor(share: string, onLine: (line: LabLine) => void) {
    this.#share = share;
    this.#onLine = onLine;
  }

  listen(): void {
    const lines = readReport(this.#share).slice(this.#lineCount);
    if (lines.length > 0) this.#heardAtMs = performance.now();
    this.#lineCount += lines.length;
    for (const line of lines) {
      this.#onLine(line);
      if (line.type === "end") this.end = line;
    }
  }

  get silentForMs(): number {
    return performance.now() - this.#heardAtMs;
  }

  get patienceMs(): number {
    return this.#lineCount === 0 ? firstWordMs : silenceMs;
  }
}

/** A result that says nothing about what was tested: a VM broke, as what was printed tells, or the status of a container in the evidence beside it. */
function failedByEmulator({ outcomes, problems, outputFile }: FileResult): boolean {
  if (problems.length === 0 && outcomes.every(({ outcome }) => outcome !== "failed")) return false;
  const folder = dirname(outputFile);
  const statuses = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((path) => basename(path) === "status.json");
  return [outputFile, ...statuses.map((path) => join(folder, path))].some((path) => tellsOfBrokenGuest(readOptional(path)));
}

/** What the guest's kernel and its start printed last. */
function lastWords(share: string): string {
  const { console, startLog } = labFiles(share);
  return [console, startLog].flatMap((path) => (existsSync(path) ? readFileSync(path, "latin1").trimEnd().split("\n").slice(-consoleTailLines) : [])).join("\n");
}
