import type { Case } from "./cases.ts";

/** How a command ended on one side. */
export interface Outcome {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** What is wrong with a row; empty when the two sides are as it says. */
export function problemOf({ verdict, compare = "text" }: Case, docker: Outcome, casemate: Outcome): string {
  if (verdict === "refused") {
    if (casemate.exitCode === 0) return "it was not refused";
    return /\nhint: /.test(casemate.stderr) ? "" : `refused without saying what to do: ${casemate.stderr.trim()}`;
  }
  if (verdict === "differs") return casemate.exitCode === 0 || docker.exitCode !== 0 ? "" : `ended with ${casemate.exitCode}: ${casemate.stderr.trim()}`;
  if (docker.exitCode !== casemate.exitCode) return `exit code ${casemate.exitCode}, docker's is ${docker.exitCode}; it said ${(casemate.stderr || casemate.stdout).trim()}, docker ${(docker.stderr || docker.stdout).trim()}`;
  const [theirs, ours] = [docker.stdout, casemate.stdout].map((text) => comparable(text, compare));
  return theirs === ours ? "" : `printed ${JSON.stringify(ours)}, docker ${JSON.stringify(theirs)}`;
}

function comparable(text: string, how: NonNullable<Case["compare"]>): string {
  switch (how) {
    case "nothing": return "";
    case "text": return plain(text);
    case "lines": return plain(text).split("\n").sort().join("\n");
    case "keys": return text.trim().split("\n").map((line) => keysOf(line)).join("\n");
  }
}

/** Ids are each side's own, and sizes on disk too. */
function plain(text: string): string {
  return text.replaceAll(/\b[0-9a-f]{64}\b/g, "<id>").replaceAll(/\b[0-9a-f]{12}\b/g, "<short id>").replaceAll(/\b\d+(\.\d+)?[kMG]?B\b/g, "<size>");
}

function keysOf(line: string): string {
  if (!line.startsWith("{")) return `no object: ${line}`;
  const value: unknown = JSON.parse(line);
  return typeof value === "object" && value !== null ? Object.keys(value).sort().join(" ") : typeof value;
}
