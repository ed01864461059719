import { forkSandbox } from "../../src/host/containers/clone-sandbox.ts";
import { removeContainer } from "../../src/host/containers/end-container.ts";
import { ContainerStore } from "../../src/host/store/container-store.ts";
import { exactly, type RunBench, type RunFigure } from "../bench.ts";
import { medianSlope } from "../pairs.ts";
import { BenchCommand } from "./support.ts";

/** Memory that the container fills, beyond what a start touches. */
const sizesMiB = [4, 24, 48];

/** What one fork cost. */
interface Cost {
  readonly sizeMiB: number;
  readonly pauseMs: number;
  readonly wholeMs: number;
}

async function forkOnce(command: BenchCommand, name: string, sizeMiB: number, count: number): Promise<Cost> {
  const { folders } = command.casemate;
  const store = new ContainerStore(folders);
  const began = performance.now();
  const { containers, pauseMs } = await forkSandbox(folders, store.find(name), { count, debug: false });
  const wholeMs = performance.now() - began;
  for (const record of containers) await removeContainer(folders, record, { force: true });
  return { sizeMiB, pauseMs, wholeMs };
}

const bench: RunBench = {
  kind: "run",
  title: "fork of a living sandbox",
  pairs: 5,
  async run(rounds): Promise<RunFigure[]> {
    await using command = new BenchCommand();
    const one: Cost[] = [], three: Cost[] = [];
    for (const sizeMiB of sizesMiB) {
      const name = `size${sizeMiB}`;
      await command.casemate.ok(["run", "-q", "-d", "--network", "none", "--name", name, "busybox", "sleep", "100000"]);
      await command.casemate.ok(["exec", name, "dd", "if=/dev/urandom", "of=/dev/shm/fill", "bs=1M", `count=${sizeMiB}`]);
      for (let round = 0; round < rounds; round++) {
        one.push(await forkOnce(command, name, sizeMiB, 1));
        three.push(await forkOnce(command, name, sizeMiB, 3));
      }
      await command.casemate.ok(["rm", "-f", name]);
    }
    const perMiB = medianSlope(one.map(({ sizeMiB, pauseMs }) => [sizeMiB, pauseMs] as const));
    const pauses = (size: number): number[] => one.filter(({ sizeMiB }) => sizeMiB === size).map(({ pauseMs }) => pauseMs).sort((a, b) => a - b);
    const further = three.map(({ sizeMiB, wholeMs }, index) => [sizeMiB, (wholeMs - (one[index]?.wholeMs ?? NaN)) / 2] as const);
    return [
      { title: `parent's pause with ${sizesMiB[0]} MiB written beyond a start`, unit: "ms", limit: { atMost: Infinity }, samples: exactly(pauses(sizesMiB[0] ?? 0)[Math.floor(rounds / 2)] ?? NaN) },
      { title: "pause for each further MiB that the parent has written", unit: "ms/MiB", limit: { atMost: Infinity }, samples: perMiB },
      { title: "one child, from the call to its owner's word", unit: "ms", limit: { atMost: Infinity }, samples: exactly(one.map(({ wholeMs }) => wholeMs).sort((a, b) => a - b)[Math.floor(one.length / 2)] ?? NaN) },
      { title: "each further child, for each MiB that the parent has written", unit: "ms/MiB", limit: { atMost: 5 }, samples: medianSlope(further) },
      { title: "each further child", unit: "ms", limit: { atMost: Infinity }, samples: exactly(further.map(([, ms]) => ms).sort((a, b) => a - b)[Math.floor(further.length / 2)] ?? NaN) },
    ];
  },
};
export default bench;

