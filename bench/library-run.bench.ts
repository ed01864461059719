import { rmSync } from "node:fs";
import { Sandbox } from "../src/index.ts";
import type { PairBench } from "./bench.ts";
import { BenchGuest } from "./support/bench-guest.ts";
import { makeBenchRoot } from "./support/bench-sandbox.ts";

/** Runs of one measurement; their mean counts. */
const count = 10;

const bench: PairBench = {
  kind: "pairs",
  title: "sandbox.run([\"true\"]) ÷ the agent's bare call and the process's end",
  unit: "ms",
  limit: { atMost: 1.5 },
  pairs: 8,
  async open() {
    const root = makeBenchRoot();
    const guest = await BenchGuest.start();
    const sandbox = await Sandbox.create({ root, image: "busybox", network: "none" });
    const mean = async (once: () => Promise<unknown>): Promise<number> => {
      const began = performance.now();
      for (let index = 0; index < count; index++) await once();
      return (performance.now() - began) / count;
    };
    return {
      a: () => mean(() => sandbox.run(["true"])),
      b: () => mean(() => guest.runToEnd()),
      [Symbol.asyncDispose]: async () => {
        await sandbox.close();
        await guest[Symbol.asyncDispose]();
        rmSync(root, { recursive: true, force: true });
      },
    };
  },
};
export default bench;
