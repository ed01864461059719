import { rmSync } from "node:fs";
import { Sandbox } from "../src/index.ts";
import type { PairBench } from "./bench.ts";
import { BareGuest } from "./support/bare-guest.ts";
import { makeBenchRoot } from "./support/bench-sandbox.ts";

const fileBytes = 64 * 1024 * 1024;

const bench: PairBench = {
  kind: "pairs",
  title: "files.write and files.read of 64 MiB ÷ the raw port in and out",
  unit: "MB/s",
  limit: { atLeast: 0.5 },
  pairs: 6,
  async open() {
    const root = makeBenchRoot();
    const bare = await BareGuest.start();
    const sandbox = await Sandbox.create({ root, image: "busybox", network: "none", memoryMiB: 512 });
    const content = Buffer.alloc(fileBytes, "casemate");
    return {
      a: async () => {
        const began = performance.now();
        await sandbox.files.write("/dev/shm/file", content);
        const read = await sandbox.files.readBytes("/dev/shm/file");
        if (read.length !== fileBytes) throw new Error(`${read.length} bytes came back`);
        return 2 * fileBytes / 1e3 / (performance.now() - began);
      },
      b: async () => 2 / (1 / await bare.inMBps(fileBytes) + 1 / await bare.outMBps(fileBytes)),
      [Symbol.asyncDispose]: async () => {
        await sandbox.close();
        await bare[Symbol.asyncDispose]();
        rmSync(root, { recursive: true, force: true });
      },
    };
  },
};
export default bench;
