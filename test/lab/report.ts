import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { FileResult } from "../../scripts/test-runner/run-file.ts";

/** What the lab guest is to do; written by the host into the share. */
export interface LabOrder {
  /** Test files, or benches. */
  readonly files: readonly string[];
  /** Pairs of each bench. */
  readonly benchPairs: number;
  /** Limit for all of them together, from the guest's first word. */
  readonly timeoutMs: number;
  /** Number of this boot, from 1; each boot's outputs have a folder of their own. */
  readonly boot: number;
}

/** What the lab guest says, one JSON object a line. */
export type LabLine =
  /** Said every {@link aliveIntervalMs}: a guest that does not has hung. */
  | { readonly type: "alive" }
  | { readonly type: "result"; readonly file: string; readonly result: FileResult }
  /** Something failed beside the tests. */
  | { readonly type: "problem"; readonly text: string }
  /** The last line: all files were run. */
  | { readonly type: "end"; readonly vmCount: number; readonly vmSeconds: number };

export const aliveIntervalMs = 2_000;

/** The files in the share by which host and guest talk. */
export function labFiles(share: string) {
  return { order: join(share, "order.json"), report: join(share, "report.jsonl"), console: join(share, "console.log"), startLog: join(share, "start.log") };
}

/** What is said of a sandbox, or of a container that ended with it, whose guest was broken by the emulator, which it is now and then (docs/lab-guest.md), and by hardly anything else. */
export function tellsOfBrokenGuest(text: string): boolean {
  return /VM (was reset|panicked)|guest_(reset|panicked)/.test(text);
}

/** Guest: says something. */
export function tell(share: string, line: LabLine): void {
  appendFileSync(labFiles(share).report, `${JSON.stringify(line)}\n`);
}

/** Host: all that was said until now; the last line may still be on its way. */
export function readReport(share: string): LabLine[] {
  const { report } = labFiles(share);
  if (!existsSync(report)) return [];
  const text = readFileSync(report, "utf8");
  return text.slice(0, text.lastIndexOf("\n") + 1).split("\n").filter((line) => line !== "").map((line) => JSON.parse(line) as LabLine); // written by tell() alone, in a guest of our own
}
