import { forkSandbox } from "../../src/host/containers/clone-sandbox.ts";
import { removeContainer } from "../../src/host/containers/end-container.ts";
import { ContainerStore } from "../../src/host/store/container-store.ts";
import { exactly, type RunBench, type RunFigure } from "../bench.ts";
import { medianSlope } from "../pairs.ts";
import { BenchCommand } from "./support.ts";

/** Memory that the container fills, beyond what a start touches. */
const sizesMiB = [4, 24, 48];
/** More than a VM boots with: the rest is in memory that is plugged, of which every child gets a copy. */
const largeMiB = 1000;

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
    await command.casemate.ok(["run", "-q", "-d", "--network", "none", "--name", "large", "-m", `${largeMiB + 400}m`, "--shm-size", `${largeMiB + 100}m`, "busybox", "sleep", "100000"]);
    await command.casemate.ok(["exec", "large", "dd", "if=/dev/urandom", "of=/dev/shm/fill", "bs=1M", `count=${largeMiB}`]);
    const largeOne: Cost[] = [], largeThree: Cost[] = [];
    for (let round = 0; round < rounds; round++) {
      largeOne.push(await forkOnce(command, "large", largeMiB, 1));
      largeThree.push(await forkOnce(command, "large", largeMiB, 3));
    }
    await command.casemate.ok(["rm", "-f", "large"]);
    const perMiB = medianSlope(one.map(({ sizeMiB, pauseMs }) => [sizeMiB, pauseMs] as const));
    const ofSize = (size: number): Cost[] => one.filter(({ sizeMiB }) => sizeMiB === size);
    const furtherOf = (threes: readonly Cost[], ones: readonly Cost[]): (readonly [number, number])[] => threes.map(({ sizeMiB, wholeMs }, index) => [sizeMiB, (wholeMs - (ones[index]?.wholeMs ?? NaN)) / 2]);
    const further = furtherOf(three, one);
    const stated = { atMost: Infinity };
    const median = (values: readonly number[]): ReturnType<typeof exactly> => exactly(values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN);
    return [
      { title: `parent's pause with ${sizesMiB[0]} MiB written beyond a start`, unit: "ms", limit: stated, samples: median(ofSize(sizesMiB[0] ?? 0).map(({ pauseMs }) => pauseMs)) },
      { title: "pause for each further MiB that the parent has written", unit: "ms/MiB", limit: stated, samples: perMiB },
      { title: "one child, from the call to its owner's word", unit: "ms", limit: stated, samples: median(one.map(({ wholeMs }) => wholeMs)) },
      { title: "each further child, for each MiB that the parent has written", unit: "ms/MiB", limit: { atMost: 5 }, samples: medianSlope(further) },
      { title: "each further child", unit: "ms", limit: stated, samples: median(further.map(([, ms]) => ms)) },
      { title: `parent's pause with ${largeMiB} MiB written, a part of it in plugged memory`, unit: "ms", limit: stated, samples: median(largeOne.map(({ pauseMs }) => pauseMs)) },
      { title: "one child of it, from the call to its owner's word", unit: "ms", limit: stated, samples: median(largeOne.map(({ wholeMs }) => wholeMs)) },
      { title: "each further child of it", unit: "ms", limit: stated, samples: median(furtherOf(largeThree, largeOne).map(([, ms]) => ms)) },
    ];
  },
};
export default bench;

