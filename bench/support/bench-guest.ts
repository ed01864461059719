import type { OciProcess, RunnableSpec } from "../../src/shared/oci/runtime-spec.ts";
import { TestVm, type TestAgent } from "../../test/support/test-vm.ts";
import { crunExecMs } from "./bench-sandbox.ts";

const containerId = "bench";
const rootPath = "/run/bench-root";
const capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"];
const path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/** A container of busybox alone on the guest's tmpfs. */
const spec: RunnableSpec = {
  ociVersion: "1.0.2",
  process: { terminal: false, user: { uid: 0, gid: 0 }, args: ["sleep", "1000000"], env: [path], cwd: "/", capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities }, noNewPrivileges: false },
  root: { path: rootPath, readonly: false },
  hostname: containerId,
  mounts: [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755", "size=65536k"] },
  ],
  linux: { namespaces: [{ type: "pid" }, { type: "ipc" }, { type: "uts" }, { type: "mount" }, { type: "cgroup" }] },
};

/** A VM with a container whose agent is ours to call: there is no owner in between. */
export class BenchGuest implements AsyncDisposable {
  readonly #vm: TestVm;
  readonly #agent: TestAgent;
  #execs = 0;

  private constructor(vm: TestVm, agent: TestAgent) {
    this.#vm = vm;
    this.#agent = agent;
  }

  static async start(): Promise<BenchGuest> {
    const vm = await TestVm.boot("bench");
    try {
      const guest = new BenchGuest(vm, await vm.connect());
      await guest.#startContainer();
      return guest;
    } catch (error) {
      await vm.end();
      throw error;
    }
  }

  async #startContainer(): Promise<void> {
    const { client } = this.#agent;
    await this.#agent.sh(`mkdir -p ${rootPath}/bin ${rootPath}/proc ${rootPath}/dev; cp /bin/busybox ${rootPath}/bin/; for name in true sleep; do ln -s busybox ${rootPath}/bin/$name; done`);
    const { stdio, close } = this.#openStdio();
    await client.guest.createContainer({ containerId, specJson: Buffer.from(JSON.stringify(spec)), storages: [], stdio, user: "", createCwd: true });
    await client.agent.startContainer({ containerId });
    close();
  }

  /** Runs `true` in the container: milliseconds from the call to its answer, which says that the process runs. */
  async execMs(): Promise<number> {
    const process: OciProcess = { ...spec.process, args: ["true"] };
    const { stdio, close } = this.#openStdio();
    const began = performance.now();
    await this.#agent.client.guest.exec({ containerId, execId: `e${++this.#execs}`, processJson: Buffer.from(JSON.stringify(process)), stdio, user: "" });
    const took = performance.now() - began;
    close();
    return took;
  }

  /** The same, to the process's end. */
  async runToEnd(): Promise<void> {
    const process: OciProcess = { ...spec.process, args: ["true"] };
    const { stdio, close } = this.#openStdio();
    const execId = `e${++this.#execs}`;
    const { guest, agent } = this.#agent.client;
    await guest.exec({ containerId, execId, processJson: Buffer.from(JSON.stringify(process)), stdio, user: "" });
    await agent.waitProcess({ containerId, execId });
    close();
  }

  /** The same exec by crun alone, by the guest's clock. */
  async crunExecMs(count: number): Promise<number> {
    return crunExecMs((script, input) => this.#agent.sh(input === undefined ? script : `${script} <<'END'\n${input}\nEND`), spec, containerId, count);
  }

  /** Streams that are open and whose bytes are dropped, as those of a command without output. */
  #openStdio(): { readonly stdio: { readonly streamId: number; readonly terminal: false; readonly stdin: false }; readonly close: () => void } {
    const streamId = 1_000_000 + ++this.#execs; // far from those of TestAgent
    const streams = this.#agent.client.streams(streamId);
    for (const fd of [1, 2] as const) streams.openOutput(fd, { onBytes: () => undefined, onEnd: () => undefined });
    return { stdio: { streamId, terminal: false, stdin: false }, close: () => streams.close() };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#agent.close();
    await this.#vm.end();
  }
}
