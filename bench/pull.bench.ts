import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pullImage } from "../src/host/storage/images/pull.ts";
import { ImageStore } from "../src/host/storage/images/image-store.ts";
import { stateFolders } from "../src/host/store/paths.ts";
import { runProcess } from "../src/shared/linux/run-process.ts";
import { compress, pushLayout, writeOciLayout } from "../test/support/image-fixture.ts";
import { tarBytes } from "../test/support/memory-archive.ts";
import { Registry } from "../test/support/registry.ts";
import { exactly, type RunBench } from "./bench.ts";

const files = 10_000, fileBytes = 20 * 1024;
const timeoutMs = 10 * 60_000;

/** Half of a file is like any other, as in programs and texts; the other half is not. */
function layer(first: number, count: number): ReturnType<typeof compress.gzip> {
  const plain = Buffer.alloc(fileBytes / 2, "as in programs and texts\n");
  const entries = Array.from({ length: count }, (_, index) => ({ path: `usr/share/d${(first + index) % 100}/f${first + index}`, type: "file" as const, content: Buffer.concat([randomBytes(fileBytes / 2), plain]) }));
  return compress.gzip(tarBytes(entries));
}

/** Nobody has anything of it in memory: neither the registry's files nor the programs'. */
function dropCaches(): void {
  writeFileSync("/proc/sys/vm/drop_caches", "3");
}

const bench: RunBench = {
  kind: "run",
  title: "pull and preparation of an image of 200 MiB in 10,000 files",
  pairs: 5,
  async run(pairs) {
    const folder = mkdtempSync("/tmp/cb-pull-");
    try {
      await using registry = await Registry.start();
      const image = `${registry.address}/bench/large:1`;
      writeOciLayout(join(folder, "layout"), [layer(0, files / 2), layer(files / 2, files / 2)], { Cmd: ["true"] });
      await pushLayout(join(folder, "layout"), image);
      const as: number[] = [], bs: number[] = [], prepared: number[] = [];
      for (let pair = -1; pair < pairs; pair++) { // the first one warms up, and does not count
        const own = await pullAndPrepare(join(folder, "own"), image);
        const theirs = await copyAndUnpack(join(folder, "theirs"), image);
        if (pair < 0) continue;
        as.push(own.pullMs + own.prepareMs);
        prepared.push(own.prepareMs);
        bs.push(theirs);
      }
      prepared.sort((one, other) => one - other);
      return [
        { title: "pull and prepare 200 MiB in 10,000 files ÷ skopeo copy and umoci unpack", unit: "ms", limit: { atMost: 1.2 }, samples: { as, bs } },
        { title: "of it, the making of the root file system (no limit)", unit: "ms", limit: { atMost: Infinity }, samples: exactly(prepared[Math.floor(prepared.length / 2)] ?? 0) },
      ];
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

/** As `casemate pull` does. */
async function pullAndPrepare(root: string, image: string): Promise<{ readonly pullMs: number; readonly prepareMs: number }> {
  dropCaches();
  const folders = stateFolders(root);
  try {
    const began = performance.now();
    const stored = await pullImage(folders, image);
    const pulled = performance.now();
    await new ImageStore(folders).open(stored);
    return { pullMs: pulled - began, prepareMs: performance.now() - pulled };
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

async function copyAndUnpack(root: string, image: string): Promise<number> {
  dropCaches();
  try {
    const began = performance.now();
    await runProcess("skopeo", ["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", `docker://${image}`, `oci:${root}:image`], { timeoutMs });
    await runProcess("umoci", ["unpack", "--image", `${root}:image`, `${root}-bundle`], { timeoutMs });
    return performance.now() - began;
  } finally {
    for (const path of [root, `${root}-bundle`]) rmSync(path, { recursive: true, force: true });
  }
}

export default bench;
