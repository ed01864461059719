import type { PairBench } from "../bench.ts";
import { EngineSandbox } from "./support.ts";

/** Lives of one measurement by crun alone; their mean counts. */
const count = 5;

const bench: PairBench = {
  kind: "pairs",
  title: "create, start and delete of a second container in a running sandbox, disk plug and mount included ÷ the same by crun in the guest",
  unit: "ms",
  limit: { atMost: 2 },
  pairs: 8,
  async open() {
    const sandbox = await EngineSandbox.start();
    const { task } = sandbox.client;
    return {
      a: async () => {
        const record = await sandbox.make(["true"]);
        const id = record.containerId;
        const began = performance.now();
        await sandbox.create(record);
        await task.start({ id });
        await task.wait({ id });
        await task.delete({ id });
        const took = performance.now() - began;
        sandbox.forget(record);
        return took;
      },
      b: () => sandbox.crunLifeMs(count),
      [Symbol.asyncDispose]: () => sandbox[Symbol.asyncDispose](),
    };
  },
};
export default bench;
