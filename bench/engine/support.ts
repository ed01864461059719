import { randomBytes } from "node:crypto";
import { connectOwner, type OwnerClient } from "../../src/host/control/owner-client.ts";
import { ContainerStore, type ContainerRecord } from "../../src/host/store/container-store.ts";
import type { RunnableSpec } from "../../src/shared/oci/runtime-spec.ts";
import { createRequest, execSpec, makeTaskContainer } from "../../test/support/task-containers.ts";
import { BenchSandbox } from "../support/bench-sandbox.ts";

/** A running sandbox whose owner is called directly: what the engine does, without the start of a command. */
export class EngineSandbox implements AsyncDisposable {
  readonly bench: BenchSandbox;
  readonly client: OwnerClient;
  /** The container that is there from the beginning. */
  readonly first: ContainerRecord;

  private constructor(bench: BenchSandbox, client: OwnerClient, first: ContainerRecord) {
    this.bench = bench;
    this.client = client;
    this.first = first;
  }

  static async start(): Promise<EngineSandbox> {
    const bench = await BenchSandbox.start();
    try {
      const { folders } = bench.casemate;
      const first = new ContainerStore(folders).find(bench.containerId);
      return new EngineSandbox(bench, await connectOwner(folders, first.sandboxId), first);
    } catch (error) {
      await bench[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** A further container on disk, for {@link create}. */
  async make(command: readonly string[]): Promise<ContainerRecord> {
    return makeTaskContainer(this.bench.casemate.folders, this.first.sandboxId, command);
  }

  async create(record: ContainerRecord): Promise<void> {
    await this.client.task.create(createRequest(record, this.bench.casemate.folders));
  }

  /** Its files on disk go, after the owner has deleted it. */
  forget(record: ContainerRecord): void {
    new ContainerStore(this.bench.casemate.folders).remove(record);
  }

  /** Runs `true` in the first container from its registration to its end. Milliseconds. */
  async execTrue(): Promise<number> {
    const { task } = this.client;
    const name = { id: this.first.containerId, execId: randomBytes(8).toString("hex") };
    const began = performance.now();
    await task.exec({ ...name, terminal: false, spec: execSpec(this.first, ["true"]) });
    await task.start(name);
    const { exitStatus } = await task.wait(name);
    await task.delete(name);
    if (exitStatus !== 0) throw new Error(`exec of true: exit status ${exitStatus}`);
    return performance.now() - began;
  }

  /** Milliseconds of crun's create, start and delete of a container like the first one, with its root file system, by the guest's clock; the mean of so many. */
  async crunLifeMs(count: number): Promise<number> {
    const folder = "/run/bench-life";
    const made = JSON.parse(await this.bench.inGuest(`cat /run/casemate/bundles/${this.first.containerId}/config.json`)) as RunnableSpec; // written by our agent
    const spec = { ...made, process: { ...made.process, args: ["true"] }, linux: { ...made.linux, cgroupsPath: "/containers/bench-life" } };
    await this.bench.inGuest(`mkdir -p ${folder}; cat >${folder}/config.json`, JSON.stringify(spec));
    const crun = "crun --root /run/casemate/crun";
    const script = `read before _ </proc/uptime; i=0; while [ $i -lt ${count} ]; do ${crun} create --bundle ${folder} life$i </dev/null >/dev/null && ${crun} start life$i && ${crun} delete --force life$i || exit; i=$((i + 1)); done; read after _ </proc/uptime; echo $before $after`;
    const [before = NaN, after = NaN] = (await this.bench.inGuest(script)).split(" ").map(Number);
    return (after - before) * 1000 / count;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.close();
    await this.bench[Symbol.asyncDispose]();
  }
}
