import { readFileSync, readdirSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { Ledger } from "../../src/host/store/ledger.ts";
import { sandboxPaths } from "../../src/host/store/paths.ts";
import { exactly, type RunBench, type RunFigure } from "../bench.ts";
import { parsePrivateKilobytes, privateMegabytes } from "../support/private-memory.ts";
import { EngineSandbox } from "./support.ts";

const containers = 50;
/** Made and removed before the first look: code is compiled and caches are filled. */
const warmUp = 5;
/** An ended exec, such as the one that looks, is known for 10 s; V8 collects meanwhile. */
const settleMs = 20_000;

interface Memory { readonly owner: number; readonly agent: number; readonly kernel: number }
type Things = Readonly<Record<"guest processes" | "cgroups" | "mounts" | "files of the agent" | "disks" | "descriptors of the agent" | "descriptors of the owner" | "records", number>>;

/** MiB. The kernel's: what is neither pages of files nor of processes, nor slabs that it counts as reclaimable (dentries, inodes), after it was told to drop its caches and empty slabs. */
async function lookAtMemory({ bench }: EngineSandbox): Promise<Memory> {
  const rollup = await bench.inGuest("cat /proc/1/smaps_rollup");
  const meminfo = await bench.inGuest("sync; echo 3 >/proc/sys/vm/drop_caches; sleep 1; for shrink in /sys/kernel/slab/*/shrink; do echo 1 >$shrink; done; cat /proc/meminfo");
  const kib = (name: string): number => Number(new RegExp(`^${name}:\\s*(\\d+) kB$`, "m").exec(meminfo)?.[1] ?? NaN);
  const kernel = ["SUnreclaim", "KernelStack", "PageTables", "Percpu", "VmallocUsed"].map(kib).reduce((sum, value) => sum + value);
  return { owner: privateMegabytes(bench.ownerPid), agent: parsePrivateKilobytes(rollup) / 1024, kernel: kernel / 1024 };
}

async function countThings({ bench, first }: EngineSandbox): Promise<Things> {
  // The shell that looks, and what it starts, are the same at both times; threads of the kernel, which come and go, have no command line.
  const [processes = NaN, cgroups = NaN, mounts = NaN, files = NaN, disks = NaN, agentDescriptors = NaN] = (await bench.inGuest("lines=$(echo /proc/[0-9]*/cmdline); grep -l . $lines 2>/dev/null | wc -l; find /sys/fs/cgroup -type d | wc -l; wc -l </proc/1/mountinfo; find /run -xdev | wc -l; ls /sys/block | wc -l; ls /proc/1/fd | wc -l")).split("\n").map(Number);
  return {
    "guest processes": processes, cgroups, mounts, "files of the agent": files, disks, "descriptors of the agent": agentDescriptors,
    "descriptors of the owner": readdirSync(`/proc/${bench.ownerPid}/fd`).length + readFileSync(`/proc/${bench.ownerPid}/task/${bench.ownerPid}/children`, "latin1").trim().split(" ").length,
    records: Ledger.open(sandboxPaths(bench.casemate.folders, first.sandboxId).ledger).records.filter(({ kind }) => kind !== "exec").length,
  };
}

/** So many at the same time, then none. */
async function comeAndGo(sandbox: EngineSandbox, count: number): Promise<void> {
  const { task } = sandbox.client;
  const records = [];
  for (let index = 0; index < count; index++) {
    const record = await sandbox.make(["sleep", "1000000"]);
    records.push(record);
    await sandbox.create(record);
    await task.start({ id: record.containerId });
  }
  for (const record of records) {
    const id = record.containerId;
    await task.kill({ id, signal: 9, all: true });
    await task.wait({ id });
    await task.delete({ id });
    sandbox.forget(record);
  }
}

const bench: RunBench = {
  kind: "run",
  title: `${containers} containers in one sandbox, then removed`,
  pairs: 5,
  async run() {
    await using sandbox = await EngineSandbox.start();
    await comeAndGo(sandbox, warmUp);
    await lookAtMemory(sandbox);
    await delay(settleMs);
    const before = { memory: await lookAtMemory(sandbox), things: await countThings(sandbox) };
    await comeAndGo(sandbox, containers);
    await delay(settleMs);
    const after = { memory: await lookAtMemory(sandbox), things: await countThings(sandbox) };
    const ratio = (who: keyof Memory, name: string): RunFigure => {
      console.log(`${name}: ${before.memory[who].toFixed(1)} MiB before, ${after.memory[who].toFixed(1)} MiB after`);
      return { title: `memory of the ${name} after ${containers} containers have come and gone ÷ before`, unit: "", limit: { atMost: 1.1 }, samples: exactly(after.memory[who] / before.memory[who]) };
    };
    const left = (Object.keys(before.things) as (keyof Things)[]).map((what): RunFigure => ({ title: `${what} left by ${containers} containers`, unit: "", limit: { atMost: 0 }, samples: exactly(after.things[what] - before.things[what]) })); // its own keys
    return [ratio("owner", "owner"), ratio("agent", "agent"), ratio("kernel", "guest's kernel"), ...left];
  },
};
export default bench;
