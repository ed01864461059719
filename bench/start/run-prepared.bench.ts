import type { PairBench } from "../bench.ts";
import { BenchCommand, coldBootMs, runTrue, untilPrepared } from "./support.ts";

const bench: PairBench = {
  kind: "pairs",
  title: "the same from a template with the container in it ÷ cold boot to a static init",
  unit: "ms",
  limit: { atMost: 0.25 },
  pairs: 20,
  async open() {
    const command = new BenchCommand();
    const args = [...runTrue, "busybox", "true"];
    await untilPrepared(command, args);
    return { a: () => command.time(args), b: coldBootMs, [Symbol.asyncDispose]: () => command[Symbol.asyncDispose]() };
  },
};
export default bench;
