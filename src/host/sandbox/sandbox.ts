import { orAbandon, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import type { Logger } from "../../shared/base/log.ts";
import { withUndo, type UndoStack } from "../../shared/base/undo.ts";
import type { OciProcess } from "../../shared/oci/runtime-spec.ts";
import type { Event, HelloResponse } from "../../shared/protocol/gen/casemate_pb.ts";
import { DiskPool } from "../device/disk-pool.ts";
import type { VirtualMachine, VmExit } from "../hypervisor/virtual-machine.ts";
import type { PublishedPort } from "../store/container-store.ts";
import type { Ledger } from "../store/ledger.ts";
import { Container, type ContainerRequest } from "./container.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import type { SandboxDrivers, SandboxNetwork, SandboxShares } from "./drivers.ts";
import { configureGuestNetwork } from "./guest-network.ts";
import { OperationQueue } from "./operation-queue.ts";
import { GuestProcess, type ProcessEnd } from "./process.ts";
import { ProcessIo, type ProcessIoOptions } from "./process-io.ts";
import { bootMemoryBytes, type SandboxConfig } from "./sandbox-config.ts";
import { raceDeath, startGuest } from "./start-guest.ts";
import { Steps, type StepHook, type StepTiming } from "./steps.ts";

/** Longest polite part of a stop; afterwards the VM is ended by force. */
const powerOffTimeoutMs = 5_000;
/** The status of a process that was ended by the loss of its VM: 128 + SIGKILL, as docker reports a killed container. */
const lostExitStatus = 137;

const SIGKILL = 9;

/** Something that happened in a sandbox. */
export interface SandboxEvent {
  readonly action: "create" | "start" | "die" | "oom" | "pause" | "unpause" | "exec_create" | "exec_start" | "exec_die" | "destroy";
  readonly containerId: string;
  readonly execId: string;
  readonly attributes: Readonly<Record<string, string>>;
}

/** What a sandbox needs from around it. */
export interface SandboxContext {
  readonly drivers: SandboxDrivers;
  readonly ledger: Ledger;
  readonly log: Logger;
  readonly hook?: StepHook;
  /** A file to use as the guest's memory, shared with us; for a VM that is to be saved. */
  readonly memoryFd?: number;
  readonly onEvent: (event: SandboxEvent) => void;
  /** Puts the end of a container on disk, before anybody is told. */
  readonly recordEnd: (container: Container, end: ProcessEnd) => void;
}

/** What a further process is made of. */
export interface ExecRequest {
  /** Empty: the guest itself. */
  readonly containerId: string;
  readonly execId: string;
  readonly process: OciProcess;
  readonly user: string;
  readonly io: ProcessIoOptions;
  readonly terminalSize: { readonly rows: number; readonly columns: number } | undefined;
  /** Forget the process when it has ended; otherwise {@link Sandbox.deleteExec} does. */
  readonly autoRemove: boolean;
  /** Give the process a cgroup of its own, so that `kill` can reach all it starts. */
  readonly ownCgroup?: boolean;
}

interface Parts {
  readonly vm: VirtualMachine;
  readonly connection: AgentClient;
  readonly hello: HelloResponse;
  readonly network: SandboxNetwork | undefined;
  readonly shares: SandboxShares | undefined;
  readonly teardown: UndoStack;
  readonly timings: readonly StepTiming[];
}

/** One VM and the containers in it. */
export class Sandbox {
  readonly config: SandboxConfig;
  readonly vm: VirtualMachine;
  readonly guestKernel: string;
  readonly timings: readonly StepTiming[];
  readonly warnings: readonly string[];
  readonly addresses: readonly string[];
  readonly ports: readonly PublishedPort[];
  readonly containers = new Map<string, Container>();
  /** Processes in the guest itself. */
  readonly vmProcesses = new Map<string, GuestProcess>();
  /** Resolves when the VM has ended and every process has got its end. */
  readonly ended: Promise<VmExit>;
  readonly #context: SandboxContext;
  readonly #connection: AgentClient;
  readonly #disks: DiskPool;
  readonly #shares: SandboxShares | undefined;
  readonly #teardown: UndoStack;
  readonly #queue = new OperationQueue();
  /** Exec ids whose process is registered and not started. */
  readonly #registered = new Map<GuestProcess, { readonly request: ExecRequest; readonly streamId: number }>();
  readonly #handled = new Set<bigint>();
  #acknowledged: bigint;
  #nextStreamId = 1;
  #stopping: Promise<void> | undefined;
  #saved = false;

  private constructor(config: SandboxConfig, context: SandboxContext, parts: Parts) {
    this.config = config;
    this.vm = parts.vm;
    this.guestKernel = parts.hello.kernelRelease;
    this.timings = parts.timings;
    this.warnings = parts.network?.warnings ?? [];
    this.addresses = parts.network?.guest.addresses ?? [];
    this.ports = parts.network?.ports ?? [];
    this.#context = context;
    this.#connection = parts.connection;
    this.#shares = parts.shares;
    this.#disks = new DiskPool(parts.vm);
    this.#teardown = parts.teardown;
    this.#acknowledged = parts.hello.acknowledgedEventSequence;
    this.ended = this.#watchVm();
    void this.#followEvents();
  }

  /** Starts the VM with everything it needs; when a step fails, what the others took is given back. */
  static async create(config: SandboxConfig, context: SandboxContext, options: WaitOptions): Promise<Sandbox> {
    const { drivers, ledger } = context;
    const steps = new Steps(`create sandbox "${config.sandboxId}"`, { ...options, hook: context.hook, log: context.log });
    return withUndo(async (undo) => {
      const user = await steps.run("claim user", () => drivers.claimUser(config, ledger, undo));
      const shares = config.shares ? await steps.run("start virtiofsd", () => drivers.startShares(config, ledger, undo)) : undefined;
      const network = config.network === "none" ? undefined : await steps.run("start network", () => drivers.startNetwork(config, user, ledger, undo));
      const { vm, connection, hello } = await startGuest(config, user, context, undo, steps);
      if (config.pristine === true) return new Sandbox(config, context, { vm, connection, hello, network, shares, teardown: undo.move(), timings: steps.timings });
      const orDeath = raceDeath(vm);
      await steps.run("grow memory", () => orDeath(vm.resizeMemory(Math.max(0, config.memoryBytes - bootMemoryBytes), steps.wait)));
      if (config.vcpuCount > 1) {
        await steps.run("grow vCPUs", () => orDeath(vm.growVcpus(config.vcpuCount, steps.wait)));
        await steps.run("bring vCPUs online", () => orDeath(connection.agent.onlineCPUMem({ nbCpus: config.vcpuCount, cpuOnly: true }, steps.wait)));
      }
      if (network !== undefined) await steps.run("plug NIC", () => orDeath(vm.plugNic(network.nic, steps.wait)));
      await steps.run("configure network", () => orDeath(configureGuestNetwork(connection, config, network?.guest, steps.wait)));
      if (shares !== undefined) {
        await steps.run("plug share", () => orDeath(vm.plugShare(shares.device, steps.wait)));
        await steps.run("mount share", () => orDeath(connection.guest.addStorages({ storages: [{ driver: "virtio-fs", source: shares.device.tag, fstype: "virtiofs", mountPoint: shares.guestMountPoint }] }, steps.wait)));
      }
      return new Sandbox(config, context, { vm, connection, hello, network, shares, teardown: undo.move(), timings: steps.timings });
    });
  }

  /** @throws RuntimeError `not_found` (reason `container_not_found`). */
  container(containerId: string): Container {
    const container = this.containers.get(containerId);
    if (container === undefined) throw new RuntimeError("not_found", `container "${containerId}" is not in sandbox "${this.config.sandboxId}"`, { reason: "container_not_found" });
    return container;
  }

  /** The process of a container, or of the guest itself when the container id is empty. */
  process(containerId: string, execId: string): GuestProcess {
    if (containerId !== "") return this.container(containerId).process(execId);
    const process = this.vmProcesses.get(execId);
    if (process === undefined) throw new RuntimeError("not_found", `process "${execId}" does not exist in the guest`, { reason: "process_not_found" });
    return process;
  }

  async createContainer(request: ContainerRequest, options: WaitOptions): Promise<Container> {
    return this.#queue.run(async () => {
      if (this.containers.has(request.containerId)) throw new RuntimeError("already_exists", `container "${request.containerId}" exists already`);
      const steps = new Steps(`create container "${request.containerId}"`, { ...options, hook: this.#context.hook, log: this.#context.log });
      const context = { connection: this.#connection, disks: this.#disks, shares: this.#shares, nextStreamId: () => this.#nextStreamId++ };
      const container = await Container.create(request, context, steps);
      this.containers.set(request.containerId, container);
      this.#emit("create", request.containerId);
      return container;
    });
  }

  async startContainer(containerId: string, options: WaitOptions): Promise<Container> {
    const container = this.container(containerId);
    container.require("start");
    await this.#connection.agent.startContainer({ containerId }, options);
    // The exit may have been faster than this answer.
    if (container.state === "created") container.moveTo("running");
    container.init.running();
    this.#emit("start", containerId);
    return container;
  }

  /** Registers a further process; {@link startExec} runs it. Empty containerId: in the guest itself. */
  registerExec(request: ExecRequest): GuestProcess {
    const processes = request.containerId === "" ? this.vmProcesses : this.container(request.containerId).execs;
    if (request.containerId !== "") this.container(request.containerId).require("exec");
    if (processes.has(request.execId)) throw new RuntimeError("already_exists", `exec "${request.execId}" exists already`);
    const streamId = this.#nextStreamId++;
    const io = new ProcessIo(this.#connection.streams(streamId), request.io);
    const process = new GuestProcess({ containerId: request.containerId, execId: request.execId, terminal: request.io.terminal }, io);
    processes.set(request.execId, process);
    if (request.autoRemove) void process.wait().then(() => processes.delete(request.execId)); // never rejects
    this.#registered.set(process, { request, streamId });
    this.#emit("exec_create", request.containerId, request.execId);
    return process;
  }

  async startExec(containerId: string, execId: string, options: WaitOptions): Promise<GuestProcess> {
    const process = this.process(containerId, execId);
    const registered = this.#registered.get(process);
    if (registered === undefined) throw new RuntimeError("failed_precondition", `exec "${execId}" is started already`, { reason: "wrong_state" });
    this.#registered.delete(process);
    const { request, streamId } = registered;
    try {
      const { pid } = await this.#connection.guest.exec({
        containerId,
        execId,
        processJson: Buffer.from(JSON.stringify(request.process)),
        stdio: { streamId, terminal: request.io.terminal, stdin: request.io.stdin, ...(request.terminalSize && { terminalSize: { ...request.terminalSize } }) },
        user: request.user,
        ownCgroup: request.ownCgroup,
      }, options);
      process.created(pid);
      process.running();
      this.#emit("exec_start", containerId, execId);
      return process;
    } catch (error) {
      await process.finish({ exitStatus: startFailureStatus(error), exitedAtUnixNanos: nowNanos(), oomKilled: false, reason: "start_failed" });
      throw error;
    }
  }

  /** Sends a signal to a process; `all`: to every process of the container, or SIGKILL to an exec with a cgroup of its own and all it has started. */
  async kill(containerId: string, execId: string, signal: number, all: boolean, options: WaitOptions): Promise<void> {
    const process = this.process(containerId, execId);
    process.requireRunning(`send signal ${signal}`);
    if (all && containerId !== "" && execId !== "" && signal === SIGKILL) {
      await this.#connection.guest.killTree({ containerId, execId }, options);
      return;
    }
    await this.#connection.agent.signalProcess({ containerId, execId: all ? "" : execId, signal }, options);
  }

  async resize(containerId: string, execId: string, size: { readonly rows: number; readonly columns: number }, options: WaitOptions): Promise<void> {
    const process = this.process(containerId, execId);
    if (!process.terminal || process.state === "stopped") return;
    await this.#connection.agent.ttyWinResize({ containerId, execId, row: size.rows, column: size.columns }, options);
  }

  async pause(containerId: string, options: WaitOptions): Promise<void> {
    const container = this.container(containerId);
    container.require("pause");
    await this.#connection.agent.pauseContainer({ containerId }, options);
    container.moveTo("paused");
    this.#emit("pause", containerId);
  }

  async resume(containerId: string, options: WaitOptions): Promise<void> {
    const container = this.container(containerId);
    container.require("resume");
    await this.#connection.agent.resumeContainer({ containerId }, options);
    container.moveTo("running");
    this.#emit("unpause", containerId);
  }

  get agent(): AgentClient {
    return this.#connection;
  }

  /** Forgets an exec that has ended or was never started. */
  deleteExec(containerId: string, execId: string): GuestProcess {
    const process = this.process(containerId, execId);
    if (process.state === "running") throw new RuntimeError("failed_precondition", `delete exec "${execId}": it is running`, { reason: "wrong_state" });
    this.#registered.delete(process);
    (containerId === "" ? this.vmProcesses : this.container(containerId).execs).delete(execId);
    return process;
  }

  /** Removes a container that has ended, or was never started, from the guest and gives back what it held. */
  async deleteContainer(containerId: string, options: WaitOptions): Promise<Container> {
    return this.#queue.run(async () => {
      const container = this.container(containerId);
      container.require("delete");
      if (container.state === "created") {
        await this.kill(containerId, "", 9, true, options);
        await container.init.wait(options);
      }
      if (this.#stopping === undefined) await this.#connection.agent.removeContainer({ containerId }, options);
      const failures = await container.release();
      this.containers.delete(containerId);
      this.#emit("destroy", containerId);
      for (const failure of failures) this.#context.log.warn("container released incompletely", { containerId, error: describeError(failure) });
      return container;
    });
  }

  /**
   * Lets go of the agent, which forgets what it kept for us, pauses the VM and writes its state without
   * its memory. Afterwards the sandbox can only be stopped.
   */
  async saveTemplate(stateFd: number, options: WaitOptions): Promise<void> {
    await this.#connection.guest.acknowledgeEvents({ upToSequence: this.#acknowledged }, options);
    this.#saved = true;
    this.#connection.close();
    await this.vm.save(stateFd, options);
  }

  /** Ends the VM: politely within the time, then by force; gives everything back. Later calls get the first one's outcome. */
  stop(timeoutMs: number = powerOffTimeoutMs): Promise<void> {
    this.#stopping ??= this.#stop(timeoutMs);
    return this.#stopping;
  }

  async #stop(timeoutMs: number): Promise<void> {
    try {
      if (timeoutMs > 0) {
        await this.#connection.guest.powerOff({ graceMs: Math.floor(timeoutMs / 2) }, { timeoutMs: timeoutMs / 2 });
        await orAbandon(this.vm.exited, "power off", { timeoutMs: timeoutMs / 2 });
      }
    } catch (error) {
      this.#context.log.info("polite stop failed, ending the VM by force", { error: describeError(error) });
    }
    await this.vm.kill();
    await this.ended;
    const failures = await this.#teardown.run();
    for (const failure of failures) this.#context.log.error("sandbox released incompletely", { error: describeError(failure) });
  }

  async #watchVm(): Promise<VmExit> {
    const exit = await this.vm.exited;
    this.#connection.close();
    const end: ProcessEnd = { exitStatus: lostExitStatus, exitedAtUnixNanos: nowNanos(), oomKilled: false, reason: "vmm_died" };
    const processes = [...this.containers.values()].flatMap((container) => container.processes).concat([...this.vmProcesses.values()]);
    await Promise.all(processes.map((process) => this.#finish(process, end)));
    return exit;
  }

  async #followEvents(): Promise<void> {
    try {
      for await (const event of this.#connection.guest.events({ afterSequence: this.#acknowledged })) {
        // Not awaited: a slow drain of one process must not hold up the exits of the others.
        void this.#handle(event).catch((error: unknown) => this.#context.log.error("event not handled", { error: describeError(error) }));
      }
    } catch (error) {
      this.#context.log.debug("agent events ended", { error: describeError(error) });
    }
    // Without its agent a running VM is of no use to anybody: its processes can be neither seen nor stopped.
    if (this.#stopping === undefined && !this.#saved) await this.vm.kill();
  }

  async #handle(event: Event): Promise<void> {
    const { kind } = event;
    if (kind.case === "exit") {
      const { containerId, execId, exitStatus, exitedAtUnixNanos, oomKilled } = kind.value;
      const processes = containerId === "" ? this.vmProcesses.get(execId) : this.#find(containerId, execId);
      if (processes !== undefined) await this.#finish(processes, { exitStatus: exitStatus & 0xff, exitedAtUnixNanos, oomKilled, reason: "" });
    } else if (kind.case === "oom") {
      this.#emit("oom", kind.value.containerId);
    }
    await this.#acknowledge(event.sequence);
  }

  /** Events are done with in any order, but acknowledged without a gap: what the agent forgets must be on disk here. */
  async #acknowledge(sequence: bigint): Promise<void> {
    this.#handled.add(sequence);
    const before = this.#acknowledged;
    while (this.#handled.delete(this.#acknowledged + 1n)) this.#acknowledged++;
    if (this.#acknowledged > before) await this.#connection.guest.acknowledgeEvents({ upToSequence: this.#acknowledged }, { timeoutMs: powerOffTimeoutMs });
  }

  #find(containerId: string, execId: string): GuestProcess | undefined {
    const container = this.containers.get(containerId);
    return execId === "" ? container?.init : container?.execs.get(execId);
  }

  async #finish(process: GuestProcess, end: ProcessEnd): Promise<void> {
    if (process.end !== undefined) return;
    const container = process.execId === "" ? this.containers.get(process.containerId) : undefined;
    await process.finish(end, (recorded) => {
      container?.moveTo("stopped");
      if (container !== undefined) this.#context.recordEnd(container, recorded);
    });
    this.#emit(process.execId === "" ? "die" : "exec_die", process.containerId, process.execId, { exitCode: String(end.exitStatus), ...(end.reason !== "" && { reason: end.reason }) });
  }

  #emit(action: SandboxEvent["action"], containerId: string, execId = "", attributes: Readonly<Record<string, string>> = {}): void {
    this.#context.onEvent({ action, containerId, execId, attributes });
  }
}

/** docker's status of a command that could not be started. */
function startFailureStatus(error: unknown): number {
  if (RuntimeError.is(error) && error.reason === "executable_not_found") return 127;
  return 126;
}

function nowNanos(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}
