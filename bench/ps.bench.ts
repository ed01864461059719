import { spawnSync } from "node:child_process";
import { closeSync, mkdirSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { ContainerStore, newStatus, type ContainerRecord } from "../src/host/store/container-store.ts";
import { readBootId } from "../src/host/store/host-facts.ts";
import { sandboxPaths } from "../src/host/store/paths.ts";
import { flockExclusive } from "../src/shared/linux/flock.ts";
import { Casemate } from "../test/support/cli.ts";
import type { PairBench } from "./bench.ts";
import { makeBenchRoot } from "./support/bench-sandbox.ts";

const exited = 18, running = 2;
/** Runs of one measurement; their mean counts. */
const count = 5;

function record(index: number): ContainerRecord {
  const containerId = index.toString(16).padStart(64, "a");
  return {
    version: 1, containerId, sandboxId: `sandbox${index}`, name: `container${index}`, createdAtUnixMs: Date.now() - index * 60_000, image: "busybox", imageId: `sha256:${containerId}`, imageDigest: `sha256:${containerId}`,
    rootfs: [{ path: "/nowhere", fsType: "erofs" }], command: ["sleep", "1000"], entrypoint: [], env: ["PATH=/bin"], workingDir: "", user: "", hostname: `h${index}`, terminal: false, openStdin: false, autoRemove: false,
    readOnlyRootfs: false, privileged: false, network: "user", ports: [], volumes: [], memoryBytes: 0, cpus: 0, stopSignal: "SIGTERM", stopTimeoutMs: 10_000, labels: {}, coldBoot: false,
  };
}

/** Files as owners leave them; what tells that the running ones live is a lock, which is ours here. */
function fill(casemate: Casemate): number[] {
  const store = new ContainerStore(casemate.folders);
  return Array.from({ length: exited + running }, (_, index) => {
    const one = record(index);
    store.create(one, { ociVersion: "1.0.2" });
    const status = { ...newStatus, bootId: readBootId(), startedAtUnixMs: Date.now() - 50_000 };
    if (index < exited) {
      store.writeStatus(one.containerId, { ...status, status: "exited", exitCode: index % 3, finishedAtUnixMs: Date.now() - 1_000 });
      return undefined;
    }
    store.writeStatus(one.containerId, { ...status, status: "running", guestPid: 130, ipAddress: "10.87.0.2" });
    const { ownerLock } = sandboxPaths(casemate.folders, one.sandboxId);
    mkdirSync(dirname(ownerLock), { recursive: true });
    return flockExclusive(ownerLock);
  }).filter((fd) => fd !== undefined);
}

/** Milliseconds of one run, the mean of a few. */
function time(file: string, args: readonly string[], expectedLines: number): number {
  const began = performance.now();
  for (let index = 0; index < count; index++) {
    const { status, stdout } = spawnSync(file, args, { encoding: "utf8" });
    const lines = stdout.split("\n").length - 1;
    if (status !== 0 || lines !== expectedLines) throw new Error(`${file} ${args.join(" ")}: exit code ${status ?? "none"}, ${lines} lines`);
  }
  return (performance.now() - began) / count;
}

const bench: PairBench = {
  kind: "pairs",
  title: `\`casemate ps\` (${exited} exited, ${running} running) ÷ \`node -e 0\``,
  unit: "ms",
  limit: { atMost: 2 },
  pairs: 15,
  async open() {
    const root = makeBenchRoot();
    const casemate = new Casemate(root);
    const locks = fill(casemate);
    const [file, ...args] = casemate.commandLine(["ps"]);
    return {
      a: async () => time(file, args, 1 + running),
      b: async () => time(process.execPath, ["-e", "0"], 0),
      [Symbol.asyncDispose]: async () => {
        for (const fd of locks) closeSync(fd);
        rmSync(root, { recursive: true, force: true });
      },
    };
  },
};
export default bench;
