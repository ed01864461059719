// What a user sees and changes of a running container's resources, through the command.
// - stats: figures per container and what the sandbox costs the host, as table and as JSON
// - top: the container's processes, no others
// - update: limits of a running container, refused ones leave everything as it was
// - pause and unpause: a container, and the whole sandbox; what needs the guest says why it cannot
// - a VM whose containers need more memory than it has gets more; one with limits does not
// - a container that eats memory ends with 137 and says so
import assert from "node:assert/strict";
import { test } from "node:test";
import { requires } from "../support/requires.ts";
import { useCasemate } from "../support/cli.ts";

const skip = requires("root");
const casemate = useCasemate();

/** The one container's answer, parsed. */
async function json(args: readonly string[]): Promise<Record<string, unknown>> {
  return JSON.parse(await casemate.ok(args)) as Record<string, unknown>; // one object a line, as asked for
}

test("stats, top and update of a running container", { skip }, async () => {
  await casemate.ok(["run", "-d", "--name", "busy", "-m", "300m", "busybox", "sh", "-c", "while :; do :; done"]);
  const stats = await json(["stats", "--no-stream", "--format", "json", "busy"]);
  assert.deepEqual([stats["Name"], stats["PIDs"]], ["busy", "1"]);
  assert.ok(Number.parseFloat(String(stats["CPUPerc"])) > 20, String(stats["CPUPerc"]));
  assert.match(String(stats["MemUsage"]), /^[\d.]+(KiB|MiB) \/ 300MiB$/);
  const sandbox = stats["Sandbox"] as { readonly Processes: readonly { readonly Name: string; readonly MemUsage: string; readonly PrivateMem: string }[] };
  assert.deepEqual(sandbox.Processes.map(({ Name }) => Name).toSorted(), ["owner", "passt", "qemu", "supervisor"]);
  assert.ok(sandbox.Processes.every(({ MemUsage }) => Number.parseFloat(MemUsage) > 0));
  const [qemu] = sandbox.Processes;
  assert.ok(qemu !== undefined && Number.parseFloat(qemu.PrivateMem) > 0 && qemu.PrivateMem !== qemu.MemUsage, `the template's memory is not QEMU's own: ${JSON.stringify(qemu)}`);
  const table = (await casemate.ok(["stats", "--no-stream"])).split("\n");
  assert.match(table[0] ?? "", /^CONTAINER ID +NAME +CPU % +MEM USAGE \/ LIMIT +MEM % +NET I\/O +BLOCK I\/O +PIDS$/);
  assert.match(table[2] ?? "", /on the host +sandbox .* [\d.]+MiB own, [\d.]+MiB shared .*qemu [\d.]+MiB/);
  const top = (await casemate.ok(["top", "busy"])).split("\n");
  assert.deepEqual([top.length, /sh -c while :; do :; done$/.test(top[1] ?? "")], [2, true], top.join("\n"));
  assert.match(await casemate.ok(["top", "busy", "-eo", "comm,pid,user,args"]), /^COMMAND +PID +USER +COMMAND\nsh +\d+ +root +sh -c while :; do :; done$/);
  assert.match((await casemate.run(["top", "busy", "--sort", "rss"])).stderr, /option "--sort" is not understood\nhint: /);

  await casemate.ok(["update", "-m", "700m", "--pids-limit", "50", "busy"]);
  assert.equal(await casemate.ok(["exec", "busy", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max"]), `${700 * 1024 ** 2}\n50`);
  const refused = await casemate.run(["update", "-m", "900000g", "busy"]);
  assert.deepEqual([refused.code, /the host has/.test(refused.stderr)], [1, true], refused.stderr);
  const [inspected] = JSON.parse(await casemate.ok(["inspect", "busy"])) as { readonly HostConfig: { readonly Memory: number } }[];
  assert.equal(inspected?.HostConfig.Memory, 700 * 1024 ** 2);

  await casemate.ok(["pause", "busy"]);
  assert.match(await casemate.ok(["ps"]), /\(Paused\)/);
  const exec = await casemate.run(["exec", "busy", "true"]);
  const hint = 'hint: let it go on with "casemate unpause busy"\n';
  assert.deepEqual([exec.code, exec.stderr], [125, `casemate: exec in container "busy": it is paused\n${hint}`]);
  const twice = await casemate.run(["pause", "busy"]);
  assert.deepEqual([twice.code, twice.stderr], [1, `casemate: pause container "busy": it is paused\n${hint}`]);
  await casemate.ok(["unpause", "busy"]);
  assert.equal((await casemate.run(["unpause", "busy"])).stderr, 'casemate: unpause container "busy": it is running, not paused\n');
  await casemate.ok(["exec", "busy", "true"]);

  await casemate.ok(["pause", "--sandbox", "busy"]);
  assert.match(await casemate.ok(["ps"]), /\(Paused\)/);
  const still = await casemate.run(["exec", "busy", "true"]);
  assert.ok(still.code !== 0 && /is paused/.test(still.stderr) && /casemate unpause --sandbox busy"/.test(still.stderr), still.stderr);
  await casemate.ok(["unpause", "--sandbox", "busy"]);
  assert.ok(Math.abs(Number(await casemate.ok(["exec", "busy", "date", "+%s"])) - Date.now() / 1000) < 5);
  await casemate.ok(["kill", "busy"]);
  await casemate.ok(["rm", "busy"]); // it has ended by now
});

test("a container that eats more memory than it may ends with 137, marked as killed for it", { skip }, async () => {
  const { code } = await casemate.run(["run", "--name", "eater", "-m", "20m", "busybox", "tail", "/dev/zero"]);
  const [inspected] = JSON.parse(await casemate.ok(["inspect", "eater"])) as { readonly State: { readonly OOMKilled: boolean; readonly ExitCode: number } }[];
  assert.deepEqual([code, inspected?.State.OOMKilled, inspected?.State.ExitCode], [137, true, 137]);
});

test("a container without a limit gets more memory than the VM began with", { skip }, async () => {
  // Pages of a tmpfs cannot be taken back: without more memory, the writer is killed.
  await casemate.ok(["run", "-d", "--name", "grower", "--tmpfs", "/m:size=2g", "busybox", "sleep", "1000"]);
  const total = async (): Promise<number> => Number(/MemTotal:\s+(\d+)/.exec(await casemate.ok(["exec", "grower", "cat", "/proc/meminfo"]))?.[1]) * 1024;
  assert.ok(await total() < 1024 ** 3);
  await casemate.ok(["exec", "grower", "sh", "-c", "dd if=/dev/zero of=/m/zeros bs=1M count=1000"]);
  assert.ok(await total() > 1.1 * 1024 ** 3);
  const [inspected] = JSON.parse(await casemate.ok(["inspect", "grower"])) as { readonly State: { readonly OOMKilled: boolean; readonly Running: boolean } }[];
  assert.deepEqual([inspected?.State.Running, inspected?.State.OOMKilled], [true, false]);
  await casemate.ok(["rm", "-f", "grower"]);
});
