import { rmSync } from "node:fs";
import { Sandbox } from "../../src/index.ts";
import type { PairBench } from "../bench.ts";
import { BareGuest } from "./bare-guest.ts";
import { makeBenchRoot } from "./bench-sandbox.ts";

const fileBytes = 64 * 1024 * 1024;

/** A file written to a tmpfs of a sandbox and read back, beside dd through the raw port, in megabytes a second. `ddFile`: where dd has its bytes; default: nowhere. */
export function libraryFilesBench(title: string, limit: PairBench["limit"], ddFile?: string): PairBench {
  return {
    kind: "pairs",
    title,
    unit: "MB/s",
    limit,
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
        b: async () => 2 / (1 / await bare.inMBps(fileBytes, ddFile) + 1 / await bare.outMBps(fileBytes, ddFile)),
        [Symbol.asyncDispose]: async () => {
          await sandbox.close();
          await bare[Symbol.asyncDispose]();
          rmSync(root, { recursive: true, force: true });
        },
      };
    },
  };
}
