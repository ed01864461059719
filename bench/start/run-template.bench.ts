import type { PairBench } from "../bench.ts";
import { BenchCommand, coldBootMs, runTrue } from "./support.ts";

const bench: PairBench = {
  kind: "pairs",
  title: "`casemate run --rm --network none busybox true` from a template ÷ cold boot to a static init",
  unit: "ms",
  limit: { atMost: 0.5 },
  pairs: 20,
  async open() {
    const command = new BenchCommand();
    return { a: () => command.time([...runTrue, "--template", "guest", "busybox", "true"]), b: coldBootMs, [Symbol.asyncDispose]: () => command[Symbol.asyncDispose]() };
  },
};
export default bench;
