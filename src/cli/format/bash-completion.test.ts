import assert from "node:assert/strict";
import { test } from "node:test";
import { runProcess } from "../../shared/linux/run-process.ts";
import { bashCompletion } from "./bash-completion.ts";

/** A program of that name that knows two containers, an image and a few options. */
const program = `casemate() { case "$*" in
"ps -a --format {{.Names}}") printf 'web\\nworker\\n' ;;
"images --format {{.Repository}}:{{.Tag}}") echo mine:2 ;;
"stop --help") printf '  -t, --time <seconds>  x\\n  -s, --signal <signal>  y\\n\\nExamples:\\n  casemate ps --filter z\\n' ;;
"image --help") printf 'Commands:\\n  inspect [options] <image...>\\n  ls|list [options]\\n' ;;
esac; }`;

async function complete(...words: readonly string[]): Promise<string[]> {
  const script = `${program}\n${bashCompletion(["run", "stop", "start", "image", "cp"])}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _casemate; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout } = await runProcess("bash", ["-c", script, "bash", "casemate", ...words]);
  return stdout.toString().trim().split("\n").filter((line) => line !== "");
}

const cases: readonly (readonly [words: readonly string[], completions: readonly string[]])[] = [
  [["st"], ["stop", "start"]],
  [["--root", "/x", "ima"], ["image"]],
  [["stop", "w"], ["web", "worker"]],
  [["stop", "--"], ["--time", "--signal"]],
  [["stop", "-t", "1", "wo"], ["worker"]],
  [["run", "m"], ["mine:2"]],
  [["image", "i"], ["inspect"]],
  [["image", "l"], ["ls"]],
  [["image", "inspect", "m"], ["mine:2"]],
];

for (const [words, completions] of cases) test(`bash completes "casemate ${words.join(" ")}"`, async () => assert.deepEqual(await complete(...words), completions));
