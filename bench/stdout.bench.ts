import { closeSync, openSync } from "node:fs";
import type { PairBench } from "./bench.ts";
import { openStreams, streamBytes } from "./support/stream-bench.ts";

const bench: PairBench = {
  kind: "pairs",
  title: "stdout of 256 MiB by `casemate exec` ÷ the raw port",
  unit: "MB/s",
  limit: { atLeast: 0.5 },
  pairs: 6,
  open: () => openStreams((sandbox, bare) => ({
    a: async () => {
      const nowhere = openSync("/dev/null", "w");
      try {
        return streamBytes / 1e3 / await sandbox.exec(["dd", "if=/dev/zero", "bs=32k", `count=${streamBytes / 32 / 1024}`], { stdout: nowhere });
      } finally {
        closeSync(nowhere);
      }
    },
    b: () => bare.outMBps(streamBytes),
  })),
};
export default bench;
