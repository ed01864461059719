import { rmSync } from "node:fs";
import { Casemate } from "../test/support/cli.ts";
import { releaseTemplateMemory } from "../src/host/template/template-memory.ts";
import { Sandbox } from "../src/index.ts";
import type { PairBench } from "./bench.ts";
import { makeBenchRoot } from "./support/bench-sandbox.ts";

/** Starts of each kind before anything is measured: the second one has a template with the image in it made. */
const warmUps = 3;
/** Time for that, which is done in the background. */
const templateMs = 20_000;

const bench: PairBench = {
  kind: "pairs",
  title: "Sandbox.create and run of `true` ÷ `casemate run --rm` of the same",
  unit: "ms",
  limit: { atMost: 1.1 },
  pairs: 8,
  async open() {
    const root = makeBenchRoot();
    const casemate = new Casemate(root);
    const create = async (): Promise<void> => {
      await using sandbox = await Sandbox.create({ root, image: "busybox", network: "none" });
      await sandbox.run(["true"]);
    };
    const run = (): Promise<unknown> => casemate.ok(["run", "-q", "--rm", "--network", "none", "busybox", "true"]);
    for (let index = 0; index < warmUps; index++) {
      await create();
      await run();
    }
    await new Promise((resolve) => setTimeout(resolve, templateMs));
    const time = async (once: () => Promise<unknown>): Promise<number> => {
      const began = performance.now();
      await once();
      return performance.now() - began;
    };
    return {
      a: () => time(create),
      b: () => time(run),
      [Symbol.asyncDispose]: async () => {
        await releaseTemplateMemory(casemate.folders);
        rmSync(root, { recursive: true, force: true });
      },
    };
  },
};
export default bench;
