import { exactly, type RunBench } from "../bench.ts";
import { EngineSandbox } from "./support.ts";

const execs = 100;

const bench: RunBench = {
  kind: "run",
  title: `${execs} execs at once ÷ ${execs} in sequence`,
  pairs: 5,
  async run(pairs) {
    await using sandbox = await EngineSandbox.start();
    const samples: { readonly as: number[]; readonly bs: number[] } = { as: [], bs: [] };
    const late: number[] = [];
    let failed = 0;
    await sandbox.execTrue();
    for (let pair = 0; pair < pairs; pair++) {
      const atOnce = performance.now();
      const ended = await Promise.allSettled(Array.from({ length: execs }, () => sandbox.execTrue()));
      const whole = performance.now() - atOnce;
      for (const one of ended) {
        if (one.status === "rejected") console.log(`an exec failed: ${String(one.reason)}`);
      }
      failed += ended.filter(({ status }) => status === "rejected").length;
      const times = ended.flatMap((one) => (one.status === "fulfilled" ? [one.value] : [])).sort((x, y) => x - y);
      late.push((times[Math.ceil(execs * 0.99) - 1] ?? Infinity) / whole);
      const inSequence = performance.now();
      for (let exec = 0; exec < execs; exec++) await sandbox.execTrue();
      samples.as.push(whole);
      samples.bs.push(performance.now() - inSequence);
    }
    return [
      { title: `${execs} execs at once ÷ ${execs} in sequence, from their registration to their end`, unit: "ms", limit: { atMost: 1.1 }, samples },
      { title: `execs of ${execs} at once that fail`, unit: "", limit: { atMost: 0 }, samples: exactly(failed) },
      { title: "the slowest of 99 in a hundred of them ÷ the whole", unit: "", limit: { atMost: 1 }, samples: exactly(Math.max(...late)) },
    ];
  },
};
export default bench;
