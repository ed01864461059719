import { spawnSync } from "node:child_process";
import { join } from "node:path";
import type { PairBench } from "./bench.ts";

const library = join(import.meta.dirname, "../dist/index.js");
/** Runs of one measurement; their mean counts. */
const count = 5;

function time(script: string): number {
  const began = performance.now();
  for (let index = 0; index < count; index++) {
    const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
    if (status !== 0) throw new Error(stderr);
  }
  return (performance.now() - began) / count;
}

const bench: PairBench = {
  kind: "pairs",
  title: "import of the library ÷ `node -e 0`",
  unit: "ms",
  limit: { atMost: 2 },
  pairs: 15,
  open: async () => ({
    a: async () => time(`import ${JSON.stringify(library)}`),
    b: async () => time("0"),
    [Symbol.asyncDispose]: async () => { /* nothing is held */ },
  }),
};
export default bench;
