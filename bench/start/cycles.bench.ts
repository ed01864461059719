import type { RunBench } from "../bench.ts";
import { BareTemplate, BenchCommand, runTrue } from "./support.ts";

/** `--pairs 1000` for the long run. */
const cycles = 200;

const bench: RunBench = {
  kind: "run",
  title: "start and stop, again and again",
  pairs: cycles,
  async run(count) {
    await using stack = new AsyncDisposableStack();
    const command = stack.use(new BenchCommand());
    const bare = stack.use(await BareTemplate.make());
    const args = [...runTrue, "--template", "guest", "busybox", "true"];
    await command.time(args);
    const ratios: number[] = [];
    for (let cycle = 0; cycle < count; cycle++) ratios.push(await command.time(args) / await bare.restoreMs());
    const quarter = Math.floor(count / 4);
    return [{ title: `the last ${quarter} of ${count} cycles ÷ the first, each against a bare restore beside it`, unit: "", limit: { atMost: 1.1 }, samples: { as: ratios.slice(-quarter), bs: ratios.slice(0, quarter) } }];
  },
};
export default bench;
