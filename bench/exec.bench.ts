import type { PairBench } from "./bench.ts";
import { BenchSandbox } from "./support/bench-sandbox.ts";

/** Execs of one measurement; their mean counts. */
const count = 10;

const bench: PairBench = {
  kind: "pairs",
  title: "`casemate exec X true`, whole ÷ the same crun exec in the guest",
  unit: "ms",
  limit: { atMost: 1.8 },
  pairs: 8,
  async open() {
    const sandbox = await BenchSandbox.start();
    return {
      a: async () => {
        let total = 0;
        for (let index = 0; index < count; index++) total += await sandbox.exec(["true"]);
        return total / count;
      },
      b: () => sandbox.crunExecMs(count),
      [Symbol.asyncDispose]: () => sandbox[Symbol.asyncDispose](),
    };
  },
};
export default bench;
