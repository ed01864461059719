import type { PairBench } from "../bench.ts";
import { BareTemplate, BenchCommand, runTrue, untilPrepared } from "./support.ts";

const bench: PairBench = {
  kind: "pairs",
  title: "`casemate run` from a template with the container in it ÷ bare restore",
  unit: "ms",
  limit: { atMost: 4 },
  pairs: 20,
  async open() {
    const stack = new AsyncDisposableStack();
    const command = stack.use(new BenchCommand());
    const args = [...runTrue, "busybox", "true"];
    await untilPrepared(command, args);
    const bare = stack.use(await BareTemplate.make());
    return { a: () => command.time(args), b: () => bare.restoreMs(), [Symbol.asyncDispose]: () => stack.disposeAsync() };
  },
};
export default bench;
