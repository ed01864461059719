import { chmodSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { AgentClient } from "../../src/host/agent-client/agent-client.ts";
import type { ConnectOptions } from "../../src/host/agent-client/transport.ts";
import { chooseAccelerator, drivers } from "../../src/host/assemble.ts";
import { ensureGuestImage } from "../../src/host/guest-image/guest-image.ts";
import type { VirtualMachine } from "../../src/host/hypervisor/virtual-machine.ts";
import type { SandboxConfig } from "../../src/host/sandbox/sandbox-config.ts";
import { Ledger } from "../../src/host/store/ledger.ts";
import { sandboxPaths, stateFolders } from "../../src/host/store/paths.ts";
import type { SandboxUser } from "../../src/host/store/sandbox-user.ts";
import { orAbandon } from "../../src/shared/base/deadline.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { UndoStack } from "../../src/shared/base/undo.ts";

/** Under emulation on a loaded machine; half a minute is far more than it takes. */
const bootTimeoutMs = 60_000;
const commandTimeoutMs = 30_000;

/** What a command in the guest did. */
export interface GuestResult {
  readonly exitStatus: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A bare VM with its agent, made by the drivers without a sandbox above them: for tests whose subject is the VM. */
export class TestVm {
  readonly vm: VirtualMachine;
  readonly config: SandboxConfig;
  readonly user: SandboxUser | undefined;
  readonly paths: ReturnType<typeof sandboxPaths>;
  readonly #root: string;
  readonly #ledger: Ledger;
  readonly #undo: UndoStack;

  private constructor(parts: Pick<TestVm, "vm" | "config" | "user" | "paths">, root: string, ledger: Ledger, undo: UndoStack) {
    this.vm = parts.vm;
    this.config = parts.config;
    this.user = parts.user;
    this.paths = parts.paths;
    this.#root = root;
    this.#ledger = ledger;
    this.#undo = undo;
  }

  /** Starts a VM in a state folder of its own; the guest is booting when this returns. A failure leaves nothing. */
  static async boot(sandboxId: string, change: Partial<SandboxConfig> = {}, memoryFd?: number): Promise<TestVm> {
    return TestVm.#start(sandboxId, change, ({ config, user, ledger, undo }) => drivers.bootVm(config, user, ledger, undo, { timeoutMs: bootTimeoutMs }, memoryFd));
  }

  /** As {@link boot}, from the template of that key, or the snapshot, in these state folders. Its guest has nobody's identity yet. */
  static async restore(sandboxId: string, change: Pick<SandboxConfig, "template" | "folders"> & Partial<SandboxConfig>): Promise<TestVm> {
    return TestVm.#start(sandboxId, change, (parts) => drivers.restoreVm({ ...parts, wait: { timeoutMs: bootTimeoutMs } }));
  }

  static async #start(sandboxId: string, change: Partial<SandboxConfig>, start: (parts: { readonly config: SandboxConfig; readonly user: SandboxUser | undefined; readonly ledger: Ledger; readonly undo: UndoStack }) => Promise<VirtualMachine>): Promise<TestVm> {
    const image = await ensureGuestImage(stateFolders(undefined));
    const { kernelPath, initramfsPath, rootImagePath } = image;
    const { accelerator } = await chooseAccelerator(stateFolders(undefined), image);
    const root = mkdtempSync("/tmp/cm-");
    chmodSync(root, 0o711);
    const config: SandboxConfig = {
      version: 1, sandboxId, folders: stateFolders(root), hostname: sandboxId, accelerator, kernelPath, initramfsPath, rootImagePath,
      memoryBytes: 0, vcpuCount: 1, shares: false, network: "none", ports: [], debug: false, ...change,
    };
    const paths = sandboxPaths(config.folders, sandboxId);
    mkdirSync(paths.folder, { recursive: true, mode: 0o711 });
    const ledger = Ledger.open(paths.ledger);
    const undo = new UndoStack();
    try {
      const user = await drivers.claimUser(config, ledger, undo);
      const vm = await start({ config, user, ledger, undo });
      return new TestVm({ vm, config, user, paths }, root, ledger, undo);
    } catch (error) {
      const failures = await undo.run();
      for (const folder of [root, paths.folder]) rmSync(folder, { recursive: true, force: true });
      if (failures.length > 0) throw new AggregateError(failures, "a failed start was not undone", { cause: error });
      throw error;
    }
  }

  /** Connects to the agent as a new owner would. `first`: see ConnectOptions. */
  async connect(options: Pick<ConnectOptions, "first"> = {}): Promise<TestAgent> {
    const client = await drivers.connectAgent(this.config, { ...options, timeoutMs: bootTimeoutMs });
    await client.guest.hello({ protocolVersion: 1 }, { timeoutMs: bootTimeoutMs });
    return new TestAgent(client);
  }

  /** Ends the VM and gives everything back. @throws RuntimeError when something stays. */
  async end(): Promise<void> {
    await this.vm.kill();
    const failures = await this.#undo.run();
    const left = this.#ledger.records;
    for (const folder of [this.#root, this.paths.folder]) rmSync(folder, { recursive: true, force: true });
    if (failures.length > 0 || left.length > 0) throw new RuntimeError("internal", `the VM was not given back: ${JSON.stringify(left)}`, { cause: failures[0] });
  }

  /** A path in the state folder, for disks and the like. */
  file(name: string): string {
    return join(this.#root, name);
  }
}

/** Stream ids are unique in the life of a VM, whoever is connected. */
let nextStreamId = 1;

/** A connection to the agent that runs commands in the guest itself. */
export class TestAgent {
  readonly client: AgentClient;
  readonly #exits = new Map<string, PromiseWithResolvers<number>>();

  constructor(client: AgentClient) {
    this.client = client;
    void this.#followEvents();
  }

  /** Runs a shell script as root of the guest and takes what it printed. */
  async run(script: string, timeoutMs = commandTimeoutMs): Promise<GuestResult> {
    const streamId = nextStreamId++;
    const execId = `run${streamId}`;
    const streams = this.client.streams(streamId);
    const outputs = ([1, 2] as const).map(async (fd) => {
      const chunks: Uint8Array[] = [];
      await new Promise<void>((resolve) => {
        const receiver = streams.openOutput(fd, { onBytes: (offset, bytes) => { chunks.push(bytes); receiver.acknowledge(offset + bytes.length); }, onEnd: () => resolve() });
      });
      return Buffer.concat(chunks).toString();
    });
    const exit = Promise.withResolvers<number>();
    exit.promise.catch(() => { /* awaited below unless the call fails first */ });
    this.#exits.set(execId, exit);
    const process = { args: ["/bin/busybox", "sh", "-c", script], cwd: "/", user: { uid: 0, gid: 0 }, env: ["PATH=/usr/bin:/usr/sbin:/bin:/sbin"] };
    await this.client.guest.exec({ execId, processJson: Buffer.from(JSON.stringify(process)), stdio: { streamId, terminal: false, stdin: false } }, { timeoutMs });
    try {
      const [exitStatus, stdout, stderr] = await orAbandon(Promise.all([exit.promise, ...outputs]), `in the guest: ${script}`, { timeoutMs }) as [number, string, string]; // two outputs, as above
      return { exitStatus, stdout, stderr };
    } finally {
      this.#exits.delete(execId);
      streams.close();
    }
  }

  /** As {@link run}, and takes for granted that it works. */
  async sh(script: string, timeoutMs?: number): Promise<string> {
    const { exitStatus, stdout, stderr } = await this.run(script, timeoutMs);
    if (exitStatus !== 0) throw new RuntimeError("internal", `in the guest: ${script}: exit status ${exitStatus}: ${stdout}${stderr}`);
    return stdout.trim();
  }

  close(): void {
    this.client.close();
  }

  async #followEvents(): Promise<void> {
    try {
      for await (const { kind } of this.client.guest.events({ afterSequence: 0n })) {
        if (kind.case === "exit") this.#exits.get(kind.value.execId)?.resolve(kind.value.exitStatus);
      }
    } catch (error) {
      for (const exit of this.#exits.values()) exit.reject(RuntimeError.wrap(error, "the agent's events ended"));
    }
  }
}
