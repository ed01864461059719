// A container whose owner is killed, as people see it.
// - exec, logs -f, wait and an attached run go on as if nothing had happened, with and without the supervisor
// - casemate events tells what happened, across the death
// - so it is with a copy of a living sandbox, and with the containers of a pod
// - memory that the guest has given back meanwhile is known to the next owner, and no more for its containers
// - without owner and VM the container has exited with 137, and starts again
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { ownerToken } from "../../src/host/control/start-owner.ts";
import { pluggableMemoryId } from "../../src/host/hypervisor/qemu/arguments.ts";
import { QmpClient } from "../../src/host/hypervisor/qmp/qmp-client.ts";
import { findTaggedProcesses } from "../../src/host/store/tagged-process.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { signalProcess } from "../../src/shared/linux/proc.ts";
import { useCasemate } from "../support/cli.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const casemate = useCasemate();
const within = { timeoutMs: 60_000 };

const mebibyte = 1024 ** 2;

interface Inspected { readonly Sandbox: { readonly id: string; readonly ownerPid: number; readonly vmmPid: number }; readonly State: { readonly Status: string; readonly ExitCode: number } }

async function inspect(name: string): Promise<Inspected> {
  const [found] = JSON.parse(await casemate.ok(["inspect", name])) as Inspected[];
  assert.ok(found !== undefined);
  return found;
}

/** SIGKILL to the owner, and to its supervisor if so asked. */
async function killOwner(name: string, withSupervisor: boolean): Promise<void> {
  const { Sandbox: { id } } = await inspect(name);
  const processes = findTaggedProcesses(ownerToken(id)).map((identity) => ({ identity, command: readFileSync(`/proc/${identity.pid}/cmdline`, "latin1") }));
  for (const { identity, command } of processes) if (withSupervisor && command.includes("owner-supervisor")) signalProcess(identity, "SIGKILL");
  for (const { identity, command } of processes) if (!command.includes("owner-supervisor")) assert.ok(signalProcess(identity, "SIGKILL"));
}

/** The lines 1, 2, 3, ... that a stream has brought, checked for gaps and doubles. */
function lastNumber(text: string): number {
  const numbers = text.split("\n").filter((line) => line !== "").map(Number);
  assert.deepEqual(numbers, numbers.map((_, index) => index + 1), "a gap, or a line twice");
  return numbers.length;
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = [];
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  return () => Buffer.concat(chunks).toString();
}

const counter = "trap 'exit 4' TERM; i=1; while :; do echo $i; i=$((i+1)); sleep 0.1 & wait $!; done";

test("exec, logs -f and wait go on after the death of the owner, with its supervisor and without", { skip }, async () => {
  await casemate.ok(["run", "-d", "--name", "lives", "busybox", "sh", "-c", counter]);
  const logs = casemate.start(["logs", "-f", "lives"]), wait = casemate.start(["wait", "lives"]), events = casemate.start(["events", "--filter", "container=lives"]);
  const [followed, waited, told] = [logs.stdout, wait.stdout, events.stdout].map(collect);
  for (const withSupervisor of [false, true]) {
    const before = (await inspect("lives")).Sandbox;
    await killOwner("lives", withSupervisor);
    assert.match(await casemate.ok(["ps"]), /lives/);
    assert.equal(await casemate.ok(["exec", "lives", "echo", "still here"]), "still here");
    const now = (await inspect("lives")).Sandbox;
    assert.ok(now.ownerPid !== before.ownerPid && now.vmmPid === before.vmmPid);
    const seen = lastNumber(followed?.() ?? "");
    await eventually("more output", () => (lastNumber(followed?.() ?? "") > seen + 5 ? true : undefined), within);
  }
  await casemate.ok(["stop", "lives"]);
  for (const child of [logs, wait]) if (child.exitCode === null) await once(child, "close");
  assert.equal(waited?.(), "4\n");
  assert.equal(lastNumber(await casemate.ok(["logs", "lives"])), lastNumber(followed?.() ?? ""));
  await eventually("the events", () => (/exec_die/.test(told?.() ?? "") && / die .*exitCode=4/.test(told?.() ?? "") ? true : undefined), within);
  events.kill("SIGINT");
  await once(events, "close");
  const json = (await casemate.ok(["events", "--since", "1h", "--until", "0s", "--filter", "event=die", "--format", "json"])).split("\n").map((line) => JSON.parse(line) as { readonly Actor: { readonly Attributes: Readonly<Record<string, string>> } });
  assert.deepEqual(json.map(({ Actor: { Attributes: { name, exitCode } } }) => [name, exitCode]), [["lives", "4"]]);
  assert.deepEqual([(await inspect("lives")).State.Status, (await inspect("lives")).State.ExitCode], ["exited", 4]);
});

/** What is true of a container whose owner has just died: exec, logs and wait work; it ends with its own code. */
async function goesOn(name: string): Promise<void> {
  const wait = casemate.start(["wait", name]);
  const waited = collect(wait.stdout);
  assert.equal(await casemate.ok(["exec", name, "echo", "still here"]), "still here");
  const numbers = async (): Promise<number[]> => (await casemate.ok(["logs", name])).split("\n").map(Number);
  const seen = await numbers();
  const more = await eventually("more output", async () => { const now = await numbers(); return now.length > seen.length + 3 ? now : undefined; }, within);
  const [first = 0] = more; // a copy's log begins where it was copied
  assert.deepEqual(more, more.map((_, index) => first + index), "a gap, or a line twice");
  await casemate.ok(["stop", name]);
  if (wait.exitCode === null) await once(wait, "close");
  assert.equal(waited(), "4\n");
}

test("a copy of a living sandbox goes on after the death of its owner, and so does its parent", { skip }, async () => {
  await casemate.ok(["run", "-d", "--name", "parent", "busybox", "sh", "-c", counter]);
  await casemate.ok(["fork", "parent", "--name", "copy"]);
  await killOwner("copy", true);
  await goesOn("copy");
  await killOwner("parent", false);
  await goesOn("parent");
  await casemate.ok(["rm", "parent", "copy"]);
});

test("the containers of a pod go on after the death of its owner, and more can come", { skip }, async () => {
  await casemate.ok(["pod", "create", "shop"]);
  for (const name of ["one", "two"]) await casemate.ok(["pod", "run", "-d", "--name", name, "shop", "busybox", "sh", "-c", counter]);
  await killOwner("one", true);
  await goesOn("one");
  assert.equal(await casemate.ok(["pod", "run", "--rm", "shop", "busybox", "echo", "third"]), "third");
  await killOwner("two", false);
  await goesOn("two");
  await casemate.ok(["pod", "rm", "-f", "shop"]);
});

test("what the guest has given back while there was no owner is known to the next one, and to its containers", { skip }, async () => {
  await casemate.ok(["run", "-d", "--name", "shrinks", "-m", "1536m", "busybox", "sleep", "1000"]);
  const { Sandbox: { id } } = await inspect("shrinks");
  const shared = async (): Promise<number> => Number(await casemate.ok(["exec", "--vm", "shrinks", "cat", "/sys/fs/cgroup/containers/memory.max"]));
  const before = await shared();
  assert.ok(before > 1500 * mebibyte, `${before} bytes`);
  await killOwner("shrinks", true);
  // Nobody but the owner talks to QEMU; without one its place is free.
  const qmp = await QmpClient.connect(casemate.sandbox(id).qmpSocket, within);
  const device = { path: `/machine/peripheral/${pluggableMemoryId}` };
  await qmp.execute("qom-set", { ...device, property: "requested-size", value: 128 * mebibyte }, within);
  await eventually("the guest to give back", async () => (await qmp.execute("qom-get", { ...device, property: "size" }, within) === 128 * mebibyte ? true : undefined), within);
  qmp.close();
  await eventually("the containers' memory to follow", async () => (await shared() < 1152 * mebibyte ? true : undefined), within);
  // Its own limit is above what the VM has now.
  assert.match(await casemate.ok(["stats", "--no-stream", "--format", "{{.MemUsage}}", "shrinks"]), / 1\.125GiB$/);
  await casemate.ok(["rm", "-f", "shrinks"]);
});

test("an attached run and what is typed into it go on after the death of the owner", { skip }, async () => {
  const run = casemate.start(["run", "-i", "--rm", "--name", "typed", "busybox", "sh", "-c", "cat; echo end; exit 6"]);
  const output = collect(run.stdout);
  run.stdin.write("before\n");
  await eventually("the echo", () => (output() === "before\n" ? true : undefined), within);
  await killOwner("typed", true);
  run.stdin.write("after\n");
  await eventually("the echo after it", () => (output() === "before\nafter\n" ? true : undefined), within);
  run.stdin.end("last\n");
  const [code] = await once(run, "close") as [number];
  assert.deepEqual([code, output()], [6, "before\nafter\nlast\nend\n"]);
});

test("a container that lost its owner and its VM has exited with 137, leaves nothing, and starts again", { skip }, async () => {
  await casemate.ok(["run", "-d", "--name", "lost", "busybox", "sh", "-c", counter]);
  const wait = casemate.start(["wait", "lost"]);
  const waited = collect(wait.stdout);
  await delay(500);
  const { Sandbox: { vmmPid } } = await inspect("lost");
  await killOwner("lost", true);
  process.kill(vmmPid, "SIGKILL");
  await once(wait, "close");
  assert.equal(waited(), "137\n");
  assert.deepEqual([(await inspect("lost")).State.Status, (await inspect("lost")).State.ExitCode], ["exited", 137]);
  await casemate.ok(["start", "lost"]);
  assert.equal(await casemate.ok(["exec", "lost", "echo", "again"]), "again");
  await casemate.ok(["rm", "-f", "lost"]);
});
