import type { PairBench } from "./bench.ts";
import { BenchGuest } from "./support/bench-guest.ts";

/** Execs of one measurement; their mean counts. */
const count = 10;

const bench: PairBench = {
  kind: "pairs",
  title: "the agent's call of an exec alone ÷ the same crun exec in the guest",
  unit: "ms",
  limit: { atMost: 1.3 },
  pairs: 8,
  async open() {
    const guest = await BenchGuest.start();
    return {
      a: async () => {
        let total = 0;
        for (let index = 0; index < count; index++) total += await guest.execMs();
        return total / count;
      },
      b: () => guest.crunExecMs(count),
      [Symbol.asyncDispose]: () => guest[Symbol.asyncDispose](),
    };
  },
};
export default bench;
