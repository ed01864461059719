// A guest whose agent is dead or stands still, with its kernel and its containers going on, as people see it.
// - exec, cp, top, stats, pause, update and kill say within their limit that the guest does not answer; ps and logs work
// - stop and pod stop end the VM all the same, after their time, and rm -f at once; whoever waits gets 137
// - an agent that is killed takes its VM along: every waiter has an answer at once, and the container starts again
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { eventually } from "../../src/shared/base/deadline.ts";
import { type CliResult, useCasemate } from "../support/cli.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const casemate = useCasemate();
/** The owner's limits of one call into the guest and of taking it back, and what a command takes on a loaded machine. */
const callLimitMs = 30_000 + 5_000 + 10_000;
const names = ["called", "stopped", "in-pod"];
const freezeAfterSeconds = 1;

/** How long a command took, and how it ended. */
async function timed(args: readonly string[]): Promise<CliResult & { readonly tookMs: number }> {
  const began = performance.now();
  const result = await casemate.run(args);
  return { ...result, tookMs: performance.now() - began };
}

/** Standard output and exit code of a command that goes on meanwhile. */
function follow(args: readonly string[]): Promise<readonly [string, number | null]> {
  const child = casemate.start(args);
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => { output += chunk.toString(); });
  return once(child, "close").then(([code]) => [output, code as number | null] as const); // Node's documented argument
}

test("an agent that stands still holds nobody past the limits", { skip }, async () => {
  await casemate.ok(["pod", "create", "pod"]);
  for (const name of names) await casemate.ok([...(name === "in-pod" ? ["pod", "run", "-d", "--name", name, "pod"] : ["run", "-q", "-d", "--name", name]), "busybox", "sh", "-c", "echo said; exec sleep 1000"]);
  const waits = names.map((name) => follow(["wait", name]));
  // What freezes the agent must not wait for its answer.
  for (const name of names) await casemate.ok(["exec", "--vm", name, "sh", "-c", `(sleep ${freezeAfterSeconds}; echo 1 > /sys/fs/cgroup/agent/cgroup.freeze) >/dev/null 2>&1 &`]);
  await delay(freezeAfterSeconds * 1000 + 500);
  const stop = timed(["stop", "-t", "2", "stopped"]);
  const podStop = timed(["pod", "stop", "-t", "2", "pod"]);
  const ps = await timed(["ps", "--format", "{{.Names}} {{.State}}"]);
  assert.deepEqual([ps.code, /^called running$/m.test(ps.stdout), ps.tookMs < 5_000], [0, true, true], `${ps.stdout}${ps.stderr} ${ps.tookMs} ms`);
  assert.equal(await casemate.ok(["logs", "called"]), "said");
  const calls = [["exec", "called", "true"], ["cp", "called:/etc/hosts", "-"], ["top", "called"], ["stats", "--no-stream", "called"], ["pause", "called"], ["kill", "-s", "USR1", "called"]];
  const results = await Promise.all(calls.map(timed));
  for (const [index, { code, stderr, tookMs }] of results.entries()) {
    const what = `${calls[index]?.join(" ")}: ${code} after ${Math.round(tookMs)} ms: ${stderr}`;
    console.log(what);
    assert.ok(code !== 0 && tookMs < callLimitMs, what);
    assert.match(stderr, /the guest's agent does not answer, waited 30000 ms\nhint: .*casemate stop/, what);
  }
  const [stopped, podStopped] = await Promise.all([stop, podStop]);
  const removed = await timed(["rm", "-f", "called"]);
  console.log(`stop ${Math.round(stopped.tookMs)} ms, pod stop ${Math.round(podStopped.tookMs)} ms, rm -f ${Math.round(removed.tookMs)} ms`);
  // Its time, that of SIGKILL, and the end of the VM.
  for (const { code, stderr, tookMs } of [stopped, podStopped]) assert.ok(code === 0 && tookMs < 25_000, `${stderr} ${tookMs} ms`);
  assert.ok(removed.code === 0 && removed.tookMs < 10_000, `${removed.stderr} ${removed.tookMs} ms`);
  assert.deepEqual(await Promise.all(waits), names.map(() => ["137\n", 0]));
  const all = await casemate.ok(["ps", "-a", "--format", "{{.Names}} {{.Status}}"]);
  for (const name of ["stopped", "in-pod"]) assert.match(all, new RegExp(`^${name} Exited \\(137\\)`, "m"));
  await casemate.ok(["rm", "stopped"]);
  await casemate.ok(["pod", "rm", "pod"]);
});

/** Overwrites the program of the guest's first process: the next instruction kills it, and the kernel with it. */
const killAgent = "set -- $(grep -m1 ' r-xp .*node' /proc/1/maps | tr - ' '); dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$((0x$1 / 4096)) count=$(((0x$2 - 0x$1) / 4096)) conv=notrunc";

test("an agent that is killed ends its container at once, which starts again", { skip }, async () => {
  await casemate.ok(["run", "-q", "-d", "--name", "killed", "busybox", "sleep", "1000"]);
  const wait = follow(["wait", "killed"]);
  const exec = follow(["exec", "killed", "sleep", "1000"]);
  await eventually("the exec", async () => (/sleep 1000[^]*sleep 1000/.test(await casemate.ok(["top", "killed"])) ? true : undefined), { timeoutMs: 20_000 });
  const began = performance.now();
  const kill = await casemate.run(["exec", "--vm", "killed", "sh", "-c", killAgent]);
  assert.equal(kill.code, 137, kill.stderr);
  assert.deepEqual(await Promise.all([wait, exec]), [["137\n", 0], ["", 137]]);
  console.log(`every waiter had its answer ${Math.round(performance.now() - began)} ms after the kill was asked for`);
  assert.ok(performance.now() - began < 10_000);
  assert.match((await casemate.run(["exec", "killed", "true"])).stderr, /is not running/);
  await casemate.ok(["start", "-q", "killed"]);
  assert.equal(await casemate.ok(["exec", "killed", "echo", "again"]), "again");
  await casemate.ok(["rm", "-f", "killed"]);
});
