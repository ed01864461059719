import { closeSync, openSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { PairBench } from "./bench.ts";
import { openStreams, streamBytes } from "./support/stream-bench.ts";

const bench: PairBench = {
  kind: "pairs",
  title: "stdin of 256 MiB by `casemate exec -i` ÷ the raw port",
  unit: "MB/s",
  limit: { atLeast: 0.5 },
  pairs: 6,
  open: () => openStreams((sandbox, bare) => ({
    a: async () => {
      // A file of zeros that takes no room: nobody has to produce the input meanwhile.
      const path = join(tmpdir(), `bench-input-${process.pid}`);
      writeFileSync(path, "");
      truncateSync(path, streamBytes);
      const input = openSync(path, "r");
      try {
        return streamBytes / 1e3 / await sandbox.exec(["dd", "of=/dev/null", "bs=32k"], { stdin: input });
      } finally {
        closeSync(input);
        rmSync(path);
      }
    },
    b: () => bare.inMBps(streamBytes),
  })),
};
export default bench;
