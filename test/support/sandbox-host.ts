import { chmodSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { connectAgent, type AgentClient } from "../../src/host/agent-client/agent-client.ts";
import { drivers } from "../../src/host/assemble.ts";
import { prepareHost } from "../../src/host/containers/prepare-host.ts";
import type { HostSetup } from "../../src/host/containers/start-container.ts";
import type { VirtualMachine } from "../../src/host/hypervisor/virtual-machine.ts";
import type { ContainerRequest } from "../../src/host/sandbox/container.ts";
import { bootMemoryBytes, type SandboxConfig } from "../../src/host/sandbox/sandbox-config.ts";
import { Sandbox, type SandboxEvent } from "../../src/host/sandbox/sandbox.ts";
import { ensureImage } from "../../src/host/storage/images/pull.ts";
import { ensureWritableLayer } from "../../src/host/storage/writable-layer.ts";
import { Ledger } from "../../src/host/store/ledger.ts";
import { sandboxPaths, type StateFolders, stateFolders } from "../../src/host/store/paths.ts";
import { orAbandon, type WaitOptions } from "../../src/shared/base/deadline.ts";
import { silentLogger } from "../../src/shared/base/log.ts";
import type { StepHook } from "../../src/shared/base/steps.ts";
import type { OciResources } from "../../src/shared/oci/runtime-spec.ts";
import { shareGuest } from "./cli.ts";
import { endTemplateWork } from "./templates.ts";

/** Under emulation on a loaded machine. */
export const startTimeoutMs = 120_000;
export const callTimeoutMs = 60_000;

/** A sandbox of {@link SandboxHost} and what happened to it. */
export interface HostedSandbox {
  readonly sandbox: Sandbox;
  readonly ledger: Ledger;
  readonly events: SandboxEvent[];
}

/** What the drivers have made of a sandbox that may still be on its way. */
interface Machine {
  vm?: VirtualMachine;
  agent?: AgentClient;
}

/** What a command in a container did. */
export interface CommandResult {
  readonly exitStatus: number;
  readonly output: string;
  readonly oomKilled: boolean;
}

/** Sandboxes with real VMs in this very process, without owners: for tests whose subject is the engine. */
export class SandboxHost implements AsyncDisposable {
  readonly folders: StateFolders;
  /** Called for each step of every operation. */
  hook: StepHook | undefined;
  readonly #setup: HostSetup;
  readonly #rootfs: ContainerRequest["rootfs"][number];
  readonly #sandboxes: HostedSandbox[] = [];
  readonly #machines = new Map<string, Machine>();
  #execs = 0;

  private constructor(folders: StateFolders, setup: HostSetup, rootfs: ContainerRequest["rootfs"][number]) {
    this.folders = folders;
    this.#setup = setup;
    this.#rootfs = rootfs;
  }

  static async open(): Promise<SandboxHost> {
    const root = mkdtempSync("/tmp/cm-");
    chmodSync(root, 0o711);
    shareGuest(root);
    const folders = stateFolders(root);
    const { setup } = await prepareHost(folders, { debug: false, coldBoot: false, onProgress: () => undefined });
    const { rootfs } = await ensureImage(folders, "busybox");
    return new SandboxHost(folders, setup, { type: rootfs.fsType, source: rootfs.path, options: ["ro"] });
  }

  /** Starts a sandbox, from the template unless told otherwise. */
  async create(sandboxId: string, change: Partial<SandboxConfig> = {}, wait: WaitOptions = { timeoutMs: startTimeoutMs }): Promise<HostedSandbox> {
    const { guestImage, accelerator, template } = this.#setup;
    const config: SandboxConfig = {
      version: 1, sandboxId, folders: this.folders, hostname: sandboxId, accelerator, template,
      kernelPath: guestImage.kernelPath, initramfsPath: guestImage.initramfsPath, rootImagePath: guestImage.rootImagePath,
      memoryBytes: bootMemoryBytes, vcpuCount: 1, shares: false, network: "none", ports: [], debug: false, ...change,
    };
    const ledger = this.ledger(sandboxId);
    const events: SandboxEvent[] = [];
    const machine: Machine = {};
    this.#machines.set(sandboxId, machine);
    const sandbox = await Sandbox.create(config, {
      drivers: {
        ...drivers,
        bootVm: async (...args) => (machine.vm = await drivers.bootVm(...args)),
        restoreVm: async (request) => (machine.vm = await drivers.restoreVm(request)),
        connectAgent: async (...args) => (machine.agent = await drivers.connectAgent(...args)),
      },
      ledger, log: silentLogger, hook: (...step) => this.hook?.(...step), onEvent: (event) => events.push(event), recordEnd: () => undefined,
    }, wait);
    const hosted = { sandbox, ledger, events };
    this.#sandboxes.push(hosted);
    return hosted;
  }

  /** Reboots a guest from inside, which QEMU takes for its end; works as soon as there is a VM. Resolves when QEMU has ended. */
  async resetGuest(sandboxId: string): Promise<void> {
    const { vm, agent } = this.#machines.get(sandboxId) ?? {};
    if (vm === undefined) throw new Error(`sandbox "${sandboxId}" has no VM`);
    const connection = agent ?? await connectAgent(sandboxPaths(this.folders, sandboxId), { timeoutMs: startTimeoutMs });
    const process = { user: { uid: 0, gid: 0 }, args: ["/bin/busybox", "sh", "-c", "echo b > /proc/sysrq-trigger"], cwd: "/" };
    // Its answer may go with the guest.
    void connection.guest.exec({ execId: "reset", processJson: Buffer.from(JSON.stringify(process)), stdio: { streamId: 9999 } }, { timeoutMs: callTimeoutMs }).catch(() => undefined);
    await orAbandon(vm.exited, "the guest's reset", { timeoutMs: callTimeoutMs });
    if (agent === undefined) connection.close();
  }

  /** The ledger that sandbox has, or would have. */
  ledger(sandboxId: string): Ledger {
    const paths = sandboxPaths(this.folders, sandboxId);
    mkdirSync(paths.folder, { recursive: true });
    return Ledger.open(paths.ledger);
  }

  /** A busybox container with a writable layer of its own, which by default does nothing until it is killed. */
  async request(containerId: string, resources: OciResources = {}, args: readonly string[] = ["sleep", "100000"]): Promise<ContainerRequest> {
    const disk = join(this.folders.data, `${containerId}.ext4`);
    await ensureWritableLayer(this.folders, disk);
    return {
      containerId, bundle: "/nowhere", user: "", createCwd: true, guestEtcFiles: false, terminalSize: undefined,
      rootfs: [this.#rootfs, { type: "ext4", source: disk, options: ["rw"] }],
      io: { terminal: false, stdin: false, log: undefined, holdOutput: false },
      spec: {
        ociVersion: "1.0.2",
        process: { user: { uid: 0, gid: 0 }, args: [...args], cwd: "/", env: ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"] },
        root: { path: "rootfs" },
        mounts: [{ destination: "/proc", type: "proc", source: "proc" }, { destination: "/sys", type: "sysfs", source: "sysfs", options: ["ro"] }, { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["ro"] }, { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["mode=755"] }],
        linux: { namespaces: ["pid", "ipc", "uts", "mount", "cgroup"].map((type) => ({ type })), resources },
      },
    };
  }

  /** Makes and starts such a container. */
  async start({ sandbox }: HostedSandbox, containerId: string, resources: OciResources = {}, args?: readonly string[]): Promise<void> {
    await sandbox.createContainer(await this.request(containerId, resources, args), { timeoutMs: callTimeoutMs });
    await sandbox.startContainer(containerId, { timeoutMs: callTimeoutMs });
  }

  /** Stops and removes a container. */
  async remove({ sandbox }: HostedSandbox, containerId: string): Promise<void> {
    await sandbox.stopContainer(containerId, { timeoutMs: callTimeoutMs });
    await sandbox.deleteContainer(containerId, { timeoutMs: callTimeoutMs });
  }

  /** Runs a shell script in a container, or in the guest itself when the id is empty. */
  async run({ sandbox }: HostedSandbox, containerId: string, script: string, { execId = `run${this.#execs++}`, ownCgroup = false, ...wait }: WaitOptions & { readonly execId?: string; readonly ownCgroup?: boolean } = { timeoutMs: callTimeoutMs }): Promise<CommandResult> {
    const shell = containerId === "" ? ["/bin/busybox", "sh"] : ["sh"];
    const process = sandbox.registerExec({
      containerId, execId, ownCgroup, user: "", terminalSize: undefined, autoRemove: true,
      process: { user: { uid: 0, gid: 0 }, args: [...shell, "-c", script], cwd: "/", env: ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"] },
      io: { terminal: false, stdin: false, log: undefined, holdOutput: true },
    });
    const chunks: Uint8Array[] = [];
    const attachment = process.io.attach({
      output: (fd, offset, bytes) => {
        chunks.push(bytes);
        queueMicrotask(() => attachment.acknowledge(fd, offset + bytes.length));
      },
      outputEnd: () => undefined,
    });
    await sandbox.startExec(containerId, execId, wait);
    const { exitStatus, oomKilled } = await process.wait({ timeoutMs: callTimeoutMs });
    return { exitStatus, output: Buffer.concat(chunks).toString().trim(), oomKilled };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { sandbox } of this.#sandboxes) await sandbox.stop(0);
    await endTemplateWork(this.folders);
    rmSync(this.folders.data, { recursive: true, force: true });
  }
}
