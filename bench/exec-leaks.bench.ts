import { readFileSync, readdirSync } from "node:fs";
import { exactly, type RunBench, type RunFigure } from "./bench.ts";
import { medianSlope } from "./pairs.ts";
import { BenchSandbox } from "./support/bench-sandbox.ts";
import { parsePrivateKilobytes, privateMegabytes } from "./support/private-memory.ts";

const execs = 200;
/** Growth is looked at after so many: caches and compiled code have settled. */
const settled = 50;
const sampleEvery = 10;

/** What an exec may leave behind nothing of. */
interface Counts {
  readonly descriptors: number;
  readonly processes: number;
  readonly cgroups: number;
}

async function count(sandbox: BenchSandbox): Promise<Counts> {
  // The shell that looks, and what it starts, are the same at both times.
  const [agentDescriptors = NaN, guestProcesses = NaN, cgroups = NaN] = (await sandbox.inGuest("ls /proc/1/fd | wc -l; ls -d /proc/[0-9]* | wc -l; find /sys/fs/cgroup -type d | wc -l")).split("\n").map(Number);
  const ownerDescriptors = readdirSync(`/proc/${sandbox.ownerPid}/fd`).length;
  const ownerChildren = readFileSync(`/proc/${sandbox.ownerPid}/task/${sandbox.ownerPid}/children`, "latin1").trim().split(" ").length;
  return { descriptors: agentDescriptors + ownerDescriptors, processes: guestProcesses + ownerChildren, cgroups };
}

async function agentKilobytes(sandbox: BenchSandbox): Promise<number> {
  return parsePrivateKilobytes(await sandbox.inGuest("cat /proc/1/smaps_rollup"));
}

const bench: RunBench = {
  kind: "run",
  title: `${execs} × exec of true`,
  pairs: 5,
  async run() {
    await using sandbox = await BenchSandbox.start();
    await sandbox.exec(["true"]);
    const before = await count(sandbox);
    const owner: [number, number][] = [];
    const agent: [number, number][] = [];
    for (let index = 1; index <= execs; index++) {
      await sandbox.exec(["true"]);
      if (index < settled || index % sampleEvery !== 0) continue;
      owner.push([index, privateMegabytes(sandbox.ownerPid) * 1024]);
      agent.push([index, await agentKilobytes(sandbox)]);
    }
    const after = await count(sandbox);
    const left = (what: keyof Counts): RunFigure => ({ title: `${what} left by ${execs} execs`, unit: "", limit: { atMost: 0 }, samples: exactly(after[what] - before[what]) });
    const growth = (who: string, points: [number, number][]): RunFigure => ({ title: `growth of the ${who}'s private memory over the last ${execs - settled} of ${execs} execs`, unit: "KiB an exec", limit: { atMost: 2 }, samples: medianSlope(points) });
    return [left("descriptors"), left("processes"), left("cgroups"), growth("owner", owner), growth("agent", agent)];
  },
};
export default bench;
