import assert from "node:assert/strict";
import { closeSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { call, SyscallError } from "../../shared/linux/libc.ts";
import { makePipe } from "./pipes.ts";
import { spawnProgram } from "./spawn-program.ts";

const env = [`PATH=${process.env["PATH"] ?? ""}`, "NAME=value"];

/** Runs a shell script with its output in a pipe; a few bytes fit into it. */
function runShell(script: string): { readonly output: string; readonly status: number } {
  const [reading, writing] = makePipe();
  const pid = spawnProgram("sh", ["-c", script], { env, stdio: ["ignore", writing, "ignore"] });
  closeSync(writing);
  const output = readFileSync(reading, "utf8");
  closeSync(reading);
  const status = Buffer.alloc(4);
  call("int waitpid(int, void *, int)", pid, status, 0);
  return { output, status: status.readInt32LE(0) };
}

test("spawnProgram() hands over arguments, environment and descriptors", () => {
  assert.deepEqual(runShell("echo $NAME; wc -c; exit 3"), { output: "value\n0\n", status: 3 << 8 });
});

test("a started program leads its session and ignores nothing", () => {
  // By the program itself: a shell blocks signals while it starts another.
  const { output } = runShell("exec grep -E '^(Pid|NSsid|SigIgn|SigBlk):' /proc/self/status");
  const values = new Map(output.trim().split("\n").map((line): [string, string] => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]));
  assert.equal(values.get("NSsid"), values.get("Pid"));
  // Those above 31 are the C library's own and whatever ran the tests may ignore them.
  for (const name of ["SigIgn", "SigBlk"]) assert.equal(BigInt(`0x${values.get(name) ?? ""}`) & 0x7fff_ffffn, 0n, name);
});

test("a program that is not there is told by its errno", () => {
  assert.throws(() => spawnProgram("no-such-program", [], { env, stdio: ["ignore", "ignore", "ignore"] }), (error) => error instanceof SyscallError && error.code === "ENOENT");
});
