import { LeftSandbox } from "../test/support/left-sandbox.ts";
import type { PairBench } from "./bench.ts";

const bench: PairBench = {
  kind: "pairs",
  title: "owner's start to its first answered State: taking over ÷ empty owner, without VM on both sides",
  unit: "ms",
  limit: { atMost: 2 },
  pairs: 10,
  async open() {
    const running = await LeftSandbox.make("running");
    return {
      a: () => running.timeOwner(),
      b: async () => {
        await using empty = await LeftSandbox.make("new");
        return await empty.timeOwner(); // before it is disposed of
      },
      [Symbol.asyncDispose]: () => running[Symbol.asyncDispose](),
    };
  },
};
export default bench;
