import { spawn, type ChildProcessByStdio } from "node:child_process";
import { once } from "node:events";
import type { Readable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { jsonAny, execSpec } from "../../test/support/task-containers.ts";
import { exactly, type RunBench, type RunFigure } from "../bench.ts";
import { EngineSandbox } from "./support.ts";

/** strace writes a call's line at once; what comes later than this belongs to nothing we did. */
const quietMs = 500;

/** Counts the fsync calls of a process, by strace. */
class FsyncCounter implements AsyncDisposable {
  readonly #child: ChildProcessByStdio<null, null, Readable>;
  #calls = 0;

  private constructor(child: ChildProcessByStdio<null, null, Readable>) {
    this.#child = child;
  }

  static async attach(pid: number): Promise<FsyncCounter> {
    const child = spawn("strace", ["-f", "-e", "trace=fsync,fdatasync,sync_file_range,syncfs,sync", "-p", String(pid)], { stdio: ["ignore", "ignore", "pipe"] });
    const counter = new FsyncCounter(child);
    const attached = Promise.withResolvers<void>();
    child.once("error", attached.reject);
    child.once("close", () => attached.reject(new Error(`strace cannot attach to ${pid}`)));
    child.stderr.on("data", (chunk: Buffer) => {
      const text = chunk.toString();
      if (text.includes("attached")) attached.resolve();
      // A call that another thread interrupts in the output has a second line, "resumed".
      counter.#calls += [...text.matchAll(/(?:fsync|fdatasync|sync_file_range|syncfs|sync)\(/g)].length;
    });
    await attached.promise;
    return counter;
  }

  async during(work: () => Promise<unknown>): Promise<number> {
    await delay(quietMs);
    const before = this.#calls;
    await work();
    await delay(quietMs);
    return this.#calls - before;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGINT");
    await once(this.#child, "close");
  }
}

const bench: RunBench = {
  kind: "run",
  title: "fsync calls of the owner for each transition",
  pairs: 5,
  async run() {
    await using sandbox = await EngineSandbox.start();
    const { task, owner } = sandbox.client;
    const record = await sandbox.make(["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 1 & wait $!; done"]);
    const id = record.containerId, name = { id, execId: "one" };
    await using counter = await FsyncCounter.attach(sandbox.bench.ownerPid);
    const transitions: readonly (readonly [what: string, work: () => Promise<unknown>])[] = [
      ["create", () => sandbox.create(record)],
      ["start", () => task.start({ id })],
      ["making an exec", () => task.exec({ ...name, terminal: false, spec: execSpec(record, ["sleep", "2"]) })],
      ["starting an exec", () => task.start(name)],
      ["the end of an exec", () => task.wait(name)],
      ["deleting an exec", () => task.delete(name)],
      ["update", () => task.update({ id, resources: jsonAny({ pids: { limit: 100 } }) })],
      ["pause", () => task.pause({ id })],
      ["resume", () => task.resume({ id })],
      ["pause of the sandbox", () => owner.pauseSandbox({})],
      ["resume of the sandbox", () => owner.resumeSandbox({})],
      ["the end of a container", async () => { await task.kill({ id, signal: 15 }); await task.wait({ id }); }],
      ["delete", () => task.delete({ id })],
    ];
    const figures: RunFigure[] = [];
    for (const [what, work] of transitions) figures.push({ title: `fsync calls of the owner: ${what}`, unit: "", limit: { atMost: 2 }, samples: exactly(await counter.during(work)) });
    sandbox.forget(record);
    return figures;
  },
};
export default bench;
