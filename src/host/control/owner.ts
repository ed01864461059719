import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { orAbandon } from "../../shared/base/deadline.ts";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import type { Logger } from "../../shared/base/log.ts";
import type { RunnableSpec } from "../../shared/oci/runtime-spec.ts";
import type { CreateOptions } from "../../shared/protocol/gen/owner_pb.ts";
import type { Container, RootfsMount } from "../sandbox/container.ts";
import type { ProcessEnd } from "../sandbox/process.ts";
import type { Sandbox, SandboxEvent } from "../sandbox/sandbox.ts";
import { ContainerLogWriter } from "../store/container-log.ts";
import { removeWithVolumes } from "../store/anonymous-volumes.ts";
import { type ContainerStore, type ContainerStatus, processUser } from "../store/container-store.ts";
import { EventFile } from "../store/event-file.ts";
import { newHealth, type HealthState } from "../store/health.ts";
import { readBootId } from "../store/host-facts.ts";
import { nextRestart, noRestart, type RestartState } from "../store/restart-policy.ts";
import type { Snapshot } from "../template/snapshot-store.ts";
import { captureSandbox, type CaptureOptions } from "./capture-sandbox.ts";
import { EventBroadcast } from "./event-broadcast.ts";
import { FileLane } from "./file-lane.ts";
import { Garbage } from "./garbage.ts";
import { endLeftProbes, isProbe, monitorHealth, probeProcess, runProbe } from "./health-monitor.ts";
import { Keeping } from "./keeping.ts";
import { StepTimes } from "./step-times.ts";

/** Time clients get to read the end of the last container before the owner goes. */
const lingerMs = 2_000;
/** Time they get to come back after the death of an owner, when that was the end of the container too. */
const comeBackMs = 2_000;
/** How long a sandbox without containers waits for its first caller: it may still be making the container's disk. */
const idleTimeoutMs = 30_000;
/** A caller has one connection after the other, or comes back after the death of an owner; who leaves nothing that runs for that long has died. */
const abandonedTimeoutMs = 5_000;
/** The guest's clock, which tells when a process ended, may be that far from ours. */
const clockSkewNanos = 5_000_000_000n;
const SIGKILL = 9;
const killTimeoutMs = 10_000;
/** Longest removal of one container from a sandbox that goes on. */
const podDeleteTimeoutMs = 30_000;
/** Longest config.json we read; Kubernetes' are some 100 KiB. */
const maxSpecBytes = 4 * 1024 * 1024;

/**
 * The state behind the services an owner serves: one sandbox, what is on disk about its containers,
 * and the rule for when it is all over.
 */
export class Owner {
  readonly log: Logger;
  /** How long the first steps took. */
  readonly stepTimes: StepTimes;
  /** The sandbox is taken over from an owner that has died: it is up, and soon ours. */
  readonly adopting: boolean;
  readonly events = new EventBroadcast<SandboxEvent & { readonly unixNanos: bigint }>();
  /** Leases and time limits. */
  readonly keeping = new Keeping((why) => {
    this.log.info("sandbox ended", { why });
    void this.finish(0);
  }, (keeping) => this.#sandbox?.noteKeeping(keeping));
  /** By which callers move the bytes of large files. */
  readonly lane: FileLane;
  /** Ends the use of a running exec, by container and exec id. */
  readonly #sandboxId: string;
  #eventFile: EventFile | undefined;
  readonly #attributes = new Map<string, Readonly<Record<string, string>>>();
  readonly #execUses = new Map<string, () => void>();
  readonly #garbage = new Garbage();
  readonly #starting: Promise<Sandbox>;
  readonly #store: ContainerStore;
  readonly #finished = Promise.withResolvers<void>();
  readonly #giveUp: AbortController;
  readonly #noRestart = new AbortController();
  #attachedClients = 0;
  #connections = 0;
  #hadConnections = false;
  #idleTimer: NodeJS.Timeout | undefined;
  #lastDetached: (() => void) | undefined;
  #sandbox: Sandbox | undefined;
  #over = false;
  /** The pod's main container, for a sandbox that ends with it. */
  #firstContainer: string | undefined;

  /** `giveUp` ends a start that is still under way. */
  constructor(starting: Promise<Sandbox>, giveUp: AbortController, store: ContainerStore, log: Logger, options: { readonly sandboxId: string; readonly adopting: boolean; readonly timings?: boolean }) {
    this.stepTimes = new StepTimes({ askGuest: options.timings ?? false });
    this.#sandboxId = options.sandboxId;
    this.adopting = options.adopting;
    this.#starting = starting;
    this.#giveUp = giveUp;
    this.#store = store;
    this.log = log;
    this.lane = new FileLane(log);
    starting.then((sandbox) => {
      this.#sandbox = sandbox;
      // A VM that ends by itself ends the owner too; by then every process has got its end.
      void sandbox.ended.then(() => this.finish(0));
      if (this.adopting) this.#goOn(sandbox);
      else if (sandbox.config.clone?.leaseExpected === true) this.keeping.expectHolder();
      this.#considerIdle();
    }, () => { /* whoever started the owner reports it */ });
  }

  /** Resolves when the sandbox is gone and the owner may exit. */
  get finished(): Promise<void> {
    return this.#finished.promise;
  }

  /** The sandbox, once it is up. @throws whatever kept it from starting. */
  async ready(): Promise<Sandbox> {
    return this.#starting;
  }

  /** The sandbox if it is up, without waiting. */
  get sandbox(): Sandbox | undefined {
    return this.#sandbox;
  }

  readonly onEvent = (event: SandboxEvent): void => {
    const unixNanos = BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e3)) * 1_000n;
    this.events.publish({ ...event, unixNanos });
    this.#appendEvent(event, unixNanos);
    if (event.action === "create") this.#firstContainer ??= event.containerId;
    if (event.action === "die") this.#containerEnded(event.containerId);
    this.#countExecs(event);
    this.#considerIdle();
    this.#garbage.collectLater();
  };

  /** For those who watch from outside; that nobody can is no reason to stop. */
  #appendEvent(event: SandboxEvent, unixNanos: bigint): void {
    try {
      this.#eventFile ??= EventFile.open(this.#store.folders, this.#sandboxId);
      this.#eventFile.append({ ...event, unixNanos: String(unixNanos), attributes: { ...this.#attributesOf(event.containerId), ...event.attributes } });
    } catch (error) {
      this.log.warn("event not written", { action: event.action, error: describeError(error) });
    }
  }

  /** What people know a container by; kept, because it may be removed before its last event. */
  #attributesOf(containerId: string): Readonly<Record<string, string>> {
    let attributes = this.#attributes.get(containerId);
    if (attributes === undefined) {
      const record = containerId === "" ? undefined : this.#store.read(containerId);
      attributes = record === undefined ? {} : { name: record.name, image: record.image };
      this.#attributes.set(containerId, attributes);
    }
    return attributes;
  }

  /** A sandbox in which an exec runs is in use. */
  #countExecs({ action, containerId, execId }: SandboxEvent): void {
    if (isProbe(execId)) return;
    const key = `${containerId}/${execId}`;
    if (action === "exec_start") this.#execUses.set(key, this.keeping.use());
    if (action === "exec_die") {
      this.#execUses.get(key)?.();
      this.#execUses.delete(key);
    }
  }

  /** Writes the end of a container into its folder, before anybody is told of it. */
  readonly recordEnd = (container: Container, end: ProcessEnd): void => {
    // What is to be removed is out of sight before anybody hears of its end.
    if (container.backing.autoRemove) return this.#removeFiles(container);
    const finishedAtUnixMs = Number(end.exitedAtUnixNanos / 1_000_000n);
    const restart = this.#restartAfter(container, end.exitStatus, finishedAtUnixMs);
    this.#writeStatus(container, { status: restart === undefined ? "exited" : "restarting", exitCode: end.exitStatus, oomKilled: end.oomKilled, error: end.reason, finishedAtUnixMs, ...(restart && { restart }) });
  };

  /** What its restart policy says to the end of a container. A pod's are not restarted, nor is anything in a sandbox that was told to end. */
  #restartAfter({ containerId, backing: { lastOneOut } }: Container, exitCode: number, finishedAtUnixMs: number): RestartState | undefined {
    const record = this.#store.read(containerId);
    if (record === undefined || !lastOneOut || this.#over) return undefined;
    const { status, startedAtUnixMs, restart } = this.#store.readStatus(containerId);
    if (status === "restarting") return restart; // an owner that died had decided it
    return nextRestart(record.settings?.restart ?? noRestart, { exitCode, ranMs: finishedAtUnixMs - startedAtUnixMs, stopRequested: record.stopRequested ?? false }, restart, Date.now());
  }

  async createContainer(request: { readonly containerId: string; readonly bundle: string; readonly rootfs: readonly RootfsMount[]; readonly terminal: boolean; readonly options: CreateOptions }, timeoutMs: number): Promise<Container> {
    const { containerId, bundle, rootfs, terminal, options } = request;
    // Before the sandbox is up, while its guest wakes.
    const spec = readSpec(bundle);
    const log = options.containerFolder === "" || options.noLog ? undefined : await ContainerLogWriter.open(join(options.containerFolder, "log"), {
      ...(options.logMaxFileBytes > 0n && { maxFileBytes: Number(options.logMaxFileBytes) }),
      ...(options.logMaxFiles > 0 && { maxFiles: options.logMaxFiles }),
    });
    const { containerFolder, autoRemove, lastOneOut } = options;
    try {
      const sandbox = await this.ready();
      return await sandbox.createContainer({
        containerId, bundle, spec, rootfs,
        user: options.user,
        createCwd: options.createCwd,
        guestEtcFiles: options.guestEtcFiles,
        init: options.idle ? "idle" : options.init ? "init" : "none",
        io: { terminal, stdin: options.stdin, log, holdOutput: options.holdOutput },
        terminalSize: options.terminalSize,
        backing: { containerFolder, autoRemove, lastOneOut, ...(options.timeoutMs > 0n && { timeoutMs: Number(options.timeoutMs) }) },
      }, { timeoutMs });
    } catch (error) {
      await log?.close();
      throw error;
    }
  }

  async startContainer(containerId: string, timeoutMs: number): Promise<Container> {
    const sandbox = await this.ready();
    try {
      const container = await sandbox.startContainer(containerId, { timeoutMs });
      if (container.state === "running") this.#writeStatus(container, { status: "running", startedAtUnixMs: Date.now(), guestPid: container.init.guestPid, health: undefined });
      this.#limitTime(container, 0);
      this.#watchHealth(container, sandbox, newHealth);
      return container;
    } catch (error) {
      const container = sandbox.containers.get(containerId);
      if (container !== undefined) this.#writeStatus(container, { error: describeError(error) });
      throw error;
    }
  }

  /** Kills a container when its time is over, of which some has passed. */
  #limitTime(container: Container, passedMs: number): void {
    const { timeoutMs } = container.backing;
    if (timeoutMs === undefined) return;
    const timer = setTimeout(() => {
      this.log.info("the container's time is over", { containerId: container.containerId });
      void this.#sandbox?.kill(container.containerId, "", SIGKILL, true, { timeoutMs: killTimeoutMs }).catch((error: unknown) => this.log.warn("not killed", { error: describeError(error) }));
    }, Math.max(0, timeoutMs - passedMs));
    void container.init.wait().then(() => clearTimeout(timer));
  }

  /** Asks for a container's health for as long as it runs, if it has a check. */
  #watchHealth(container: Container, sandbox: Sandbox, health: HealthState): void {
    const { containerId } = container;
    const record = this.#store.read(containerId);
    const check = record?.settings?.health;
    if (record === undefined || check === undefined || container.state === "stopped") return;
    this.#writeStatus(container, { health });
    const what = { process: probeProcess(check, readSpec(container.bundle).process), user: processUser(record), timeoutMs: check.timeoutMs };
    const over = new AbortController();
    void container.init.wait().then(() => over.abort());
    void monitorHealth({
      check, health,
      startedAtUnixMs: this.#store.readStatus(containerId).startedAtUnixMs,
      awake: () => container.state === "running" && sandbox.state === "running",
      probe: () => runProbe(sandbox, containerId, what, this.log),
      report: (after, changed) => {
        this.#writeStatus(container, { health: after });
        if (changed) this.onEvent({ action: "health_status", containerId, execId: "", attributes: { health_status: after.status } });
      },
    }, over.signal);
  }

  /** Writes `paused` or `running` after the guest's freezer has changed. */
  noteState(container: Container): void {
    if (container.state === "paused" || container.state === "running") this.#writeStatus(container, { status: container.state });
  }

  /** Writes what the containers of a sandbox that stands still, or goes on, are for those who look at files. Not synced: after a crash of the host they have ended either way. */
  noteSandboxState(): void {
    const { sandbox } = this;
    for (const container of sandbox?.containers.values() ?? []) {
      if (container.state === "running" || container.state === "paused") this.#writeStatus(container, { status: sandbox?.state === "paused" ? "paused" : container.state }, { durable: false });
    }
  }

  /** Saves the sandbox as a snapshot. */
  async capture(options: CaptureOptions): Promise<Snapshot & { readonly touchedBytes: number }> {
    const sandbox = await this.ready();
    return this.lane.withhold(() => captureSandbox(sandbox, this.#store, options));
  }

  /** Writes what the containers of a clone are: they run, or stand, since before it began. */
  async noteClone(): Promise<void> {
    const sandbox = await this.ready(); // by then it is known here with its addresses and ports
    for (const container of sandbox.containers.values()) {
      if (container.state === "running" || container.state === "paused") this.#writeStatus(container, { status: container.state, startedAtUnixMs: Date.now(), guestPid: container.init.guestPid });
    }
  }

  async deleteContainer(containerId: string, timeoutMs: number): Promise<Container> {
    const sandbox = await this.ready();
    await this.lane.withdraw(); // the guest cannot give back a file system while bytes move in it
    const container = await sandbox.deleteContainer(containerId, { timeoutMs });
    if (container.backing.lastOneOut) void this.finish(0);
    return container;
  }

  /** Counts a client, so that the end of the last container is not announced into the void. */
  clientAttached(): { readonly detached: () => void } {
    this.#attachedClients++;
    return {
      detached: () => {
        if (--this.#attachedClients === 0) this.#lastDetached?.();
      },
    };
  }

  connectionOpened(): void {
    this.#connections++;
    this.#hadConnections = true;
    clearTimeout(this.#idleTimer);
  }

  connectionClosed(): void {
    this.#connections--;
    this.#considerIdle();
  }

  /** A sandbox that runs nothing and that nobody is connected with was left behind by a caller that died. */
  #considerIdle(): void {
    clearTimeout(this.#idleTimer);
    if (this.#connections > 0 || this.#sandbox === undefined || this.#sandbox.config.ending === "stop") return;
    if ([...this.#sandbox.containers.values()].some(({ state }) => state === "running" || state === "paused")) return;
    this.#idleTimer = setTimeout(() => {
      this.log.info("nobody uses this sandbox");
      void this.finish(0);
    }, this.#hadConnections ? abandonedTimeoutMs : idleTimeoutMs);
  }

  /** Stops the sandbox because somebody asks for it: what was to be started again is not. */
  async stop(stopTimeoutMs: number): Promise<void> {
    this.#noRestart.abort();
    await this.finish(stopTimeoutMs);
  }

  /** Aborted when nothing is to be started again. */
  get restartSignal(): AbortSignal {
    return this.#noRestart.signal;
  }

  /** Stops the sandbox and lets the owner go. Any number of calls. */
  async finish(stopTimeoutMs: number): Promise<void> {
    if (this.#over) return this.finished;
    this.#over = true;
    if (this.#sandbox === undefined) this.#giveUp.abort(new RuntimeError("canceled", "stopped while starting"));
    try {
      const sandbox = await this.#starting;
      await sandbox.stop(stopTimeoutMs);
      for (const container of sandbox.containers.values()) this.#removeFiles(container);
    } catch (error) {
      this.log.info("nothing to stop", { error: describeError(error) });
    }
    this.#finished.resolve();
  }

  /** Puts on disk what the owner before did not come to, and does what it would have done next. */
  #goOn(sandbox: Sandbox): void {
    if (sandbox.keeping !== undefined) this.keeping.restore(sandbox.keeping);
    // In the order they were made; one that is gone has ended the sandbox, if it was to.
    [this.#firstContainer] = sandbox.containers.keys();
    for (const container of sandbox.containers.values()) {
      const { end } = container.init;
      for (const exec of container.execs.values()) if (exec.state === "running") this.#countExecs({ action: "exec_start", containerId: container.containerId, execId: exec.execId, attributes: {} });
      if (end !== undefined) {
        this.recordEnd(container, end);
        this.#tellEnd(container, end);
        this.#containerEnded(container.containerId, comeBackMs);
      } else if (container.state !== "created") {
        this.#writeRunning(container, container.state === "paused" ? "paused" : "running");
        this.#limitTime(container, Date.now() - this.#store.readStatus(container.containerId).startedAtUnixMs);
        void endLeftProbes(sandbox, container.containerId, this.log); // never rejects
        this.#watchHealth(container, sandbox, this.#store.readStatus(container.containerId).health ?? newHealth);
      }
    }
  }

  /** The end of a container whose owner died before it told of it. */
  #tellEnd({ containerId }: Container, end: ProcessEnd): void {
    const told = EventFile.open(this.#store.folders, this.#sandboxId).has((event) => event.action === "die" && event.containerId === containerId && BigInt(event.unixNanos) > end.exitedAtUnixNanos - clockSkewNanos);
    if (!told) this.#appendEvent({ action: "die", containerId, execId: "", attributes: { exitCode: String(end.exitStatus), ...(end.reason !== "" && { reason: end.reason }) } }, end.exitedAtUnixNanos);
  }

  #writeRunning(container: Container, word: "running" | "paused"): void {
    const { status, startedAtUnixMs } = this.#store.readStatus(container.containerId);
    if (status !== word) this.#writeStatus(container, { status: word, startedAtUnixMs: startedAtUnixMs === 0 ? Date.now() : startedAtUnixMs, guestPid: container.init.guestPid });
  }

  /** The last container has ended: clients get its end, then the sandbox goes. `returnMs`: they may still have to come. */
  #containerEnded(containerId: string, returnMs = 0): void {
    const backing = this.#sandbox?.containers.get(containerId)?.backing;
    if (backing === undefined) return;
    const inPod = this.#sandbox?.config.ending !== undefined;
    if (!inPod && !backing.lastOneOut) return;
    void (async () => {
      if (returnMs > 0) await delay(returnMs);
      if (this.#attachedClients > 0) {
        const gone = new Promise<void>((resolve) => { this.#lastDetached = resolve; });
        await orAbandon(gone, "clients", { timeoutMs: lingerMs }).catch(() => this.log.info("a client did not leave in time"));
      }
      if (inPod) return this.#endInPod(containerId);
      // A container that is thrown away needs no orderly end: its disk goes with it.
      await this.finish(backing.autoRemove ? 0 : 5_000);
    })();
  }

  /** A container of a pod gives back what it held; whether the sandbox ends with it was decided when the pod was made. */
  async #endInPod(containerId: string): Promise<void> {
    const sandbox = this.#sandbox;
    if (sandbox === undefined) return;
    const others = [...sandbox.containers.values()].filter((container) => container.containerId !== containerId && container.state !== "stopped");
    const { ending } = sandbox.config;
    if ((ending === "first" && containerId === this.#firstContainer) || (ending === "last" && others.length === 0)) return this.finish(5_000);
    try {
      await this.lane.withdraw();
      await sandbox.deleteContainer(containerId, { timeoutMs: podDeleteTimeoutMs });
    } catch (error) {
      if (!RuntimeError.is(error, "not_found")) this.log.warn("container not removed", { containerId, error: describeError(error) });
    }
  }

  #removeFiles(container: Container): void {
    if (!container.backing.autoRemove) return;
    const record = this.#store.read(container.containerId);
    if (record !== undefined) removeWithVolumes(this.#store, record);
  }

  #writeStatus(container: Container, changes: Partial<ContainerStatus>, options: { readonly durable?: boolean } = {}): void {
    if (container.backing.containerFolder === "") return;
    const sandbox = this.#sandbox;
    try {
      this.#store.writeStatus(container.containerId, {
        ...this.#store.readStatus(container.containerId),
        bootId: readBootId(),
        ipAddress: sandbox?.addresses[0]?.split("/")[0] ?? "",
        ports: sandbox?.ports ?? [],
        ...changes,
      }, options);
    } catch (error) {
      // A full or vanished data folder must not end the workload; `ps` will show what was true before.
      this.log.error("status not written", { containerId: container.containerId, error: describeError(error) });
    }
  }
}

/** Reads and checks a bundle's config.json. @throws RuntimeError `invalid_argument`. */
function readSpec(bundle: string): RunnableSpec {
  const path = join(bundle, "config.json");
  let value: unknown;
  try {
    const bytes = readFileSync(path);
    if (bytes.length > maxSpecBytes) throw new RuntimeError("invalid_argument", `longer than ${maxSpecBytes} bytes`);
    value = JSON.parse(bytes.toString());
  } catch (error) {
    throw new RuntimeError("invalid_argument", `read spec "${path}"`, { cause: error });
  }
  const spec = value as Partial<RunnableSpec> | null; // the fields we rely on are checked here; crun checks the rest
  if (spec === null || typeof spec !== "object" || !Array.isArray(spec.process?.args) || typeof spec.process.cwd !== "string" || typeof spec.root?.path !== "string") {
    throw new RuntimeError("invalid_argument", `spec "${path}": needs process.args, process.cwd and root.path`);
  }
  if (spec.mounts !== undefined && !(Array.isArray(spec.mounts) && spec.mounts.every((mount) => typeof mount?.destination === "string" && (mount.options === undefined || Array.isArray(mount.options))))) {
    throw new RuntimeError("invalid_argument", `spec "${path}": mounts must be objects with a destination`);
  }
  return spec as RunnableSpec;
}
