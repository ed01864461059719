import { closeSync, openSync, rmSync, writeFileSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { timePart } from "../../shared/base/call-parts.ts";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { withUndo, type UndoStack } from "../../shared/base/undo.ts";
import type { OciProcess, OciResources, RunnableSpec } from "../../shared/oci/runtime-spec.ts";
import type { CreateContainerRequest, Exit, ExecRequest, Stdio } from "../../shared/protocol/gen/casemate_pb.ts";
import { cgroups, killCgroup, makeCgroup, removeCgroup } from "../cgroup/cgroup-tree.ts";
import { MemoryWatch } from "../cgroup/memory-watch.ts";
import { oomKillCount, watchOom } from "../cgroup/oom-watch.ts";
import type { EventLog } from "../events.ts";
import { ConsoleSocket } from "../linux/console-socket.ts";
import { RootFolder } from "../linux/resolve-beneath.ts";
import { requireId } from "../paths.ts";
import type { Reaper } from "../reaper.ts";
import type { Storages } from "../storage/storages.ts";
import { bundleFile, Container, type ContainerName } from "./container.ts";
import { containerCgroup, liesOnMount, parseProcess, parseSpec, prepareProcess, prepareSpec } from "./container-spec.ts";
import type { Crun } from "./crun.ts";
import { GuestProcess } from "./guest-process.ts";
import { ProcessStdio } from "./process-stdio.ts";
import { SpareExec, spareName } from "./spare-exec.ts";
import type { StdioPort } from "./stdio-port.ts";
import { readAhead } from "./read-ahead.ts";
import { lookUpUser } from "./user.ts";
import { startVmProcess } from "./vm-process.ts";

const SIGKILL = 9;
/** A killed process that has not ended by then hangs in the kernel. */
const killTimeoutMs = 10_000;

/** What the containers are made with. */
export interface ContainersContext {
  readonly crun: Crun;
  readonly reaper: Reaper;
  readonly events: EventLog;
  readonly storages: Storages;
  readonly stdioPort: StdioPort;
}

/** All containers of the guest and the processes in the guest itself. */
export class Containers {
  readonly #context: ContainersContext;
  readonly #containers = new Map<string, Container>();
  /** Creations under way. */
  readonly #creating = new Map<string, Promise<Container>>();
  readonly #vmProcesses = new Map<string, GuestProcess>();
  readonly #memoryWatch: MemoryWatch;

  constructor(context: ContainersContext) {
    this.#context = context;
    this.#memoryWatch = new MemoryWatch(context.events);
  }

  /** Lets the containers have what memory there is; after it, or their limits, changed. `coming`: one that is just being made. */
  shareMemory(coming?: Pick<Container, "memoryLimited">): void {
    this.#memoryWatch.adjust([...this.#containers.values(), ...(coming === undefined ? [] : [coming])].some(({ memoryLimited }) => !memoryLimited));
  }

  /** Makes a container whose process waits for {@link start}; undoes everything when a step fails. Returns the process's pid. */
  async create(request: CreateContainerRequest): Promise<number> {
    const { containerId } = request;
    requireId("container", containerId);
    if (this.#containers.has(containerId) || this.#creating.has(containerId)) throw new RuntimeError("already_exists", `container "${containerId}" exists already`, { reason: "container_exists" });
    this.#context.events.requireRoom();
    const creating = withUndo((undo) => this.#create(request, undo));
    this.#creating.set(containerId, creating);
    try {
      const container = await creating;
      this.#containers.set(containerId, container);
      return container.init.pid;
    } finally {
      this.#creating.delete(containerId);
    }
  }

  /** Lets the container's process run its program. */
  async start(containerId: string): Promise<void> {
    const container = this.container(containerId);
    this.#requireStatus(container, "start", ["created"]);
    container.started = true; // before the answer: a second start must fail, and the exit may come first
    try {
      if (!container.runsAhead) await this.#context.crun.start(container.name.madeAs, bundleFile(container.name.madeAs, "crun.log"));
    } catch (error) {
      container.started = false;
      throw error;
    }
  }

  /** Starts a further process in a running container, or in the guest itself. Returns its pid. */
  async exec(request: ExecRequest): Promise<number> {
    requireId("exec", request.execId);
    this.#context.events.requireRoom();
    if (request.containerId === "") return this.#execInVm(request);
    const container = this.container(request.containerId);
    const { execs, starting } = container;
    this.#requireStatus(container, "exec", ["created", "running"]);
    requireUnused(request.execId, execs, starting);
    const startingUp = this.#exec(container, request);
    starting.set(request.execId, startingUp);
    try {
      const process = await startingUp;
      execs.set(request.execId, process);
      return process.pid;
    } finally {
      starting.delete(request.execId);
    }
  }

  /**
   * As sent, to one process; SIGKILL to a container's first process reaches all of the container. An
   * ended process is no error. One that is just starting, whose caller may have lost patience, gets it
   * when it has started.
   */
  async signal(containerId: string, execId: string, signal: number): Promise<void> {
    await this.#containers.get(containerId)?.starting.get(execId)?.catch(() => { /* told to who started it; below it is not found */ });
    const process = this.process(containerId, execId);
    if (containerId !== "" && execId === "" && signal === SIGKILL && killCgroup(process.origin.cgroup)) return;
    process.signal(signal);
  }

  /** SIGKILL to an exec that has a cgroup of its own, and to everything it has started. One that has ended, with all it started, is no error. */
  killTree(containerId: string, execId: string): void {
    killCgroup(this.container(containerId).execCgroup(requireId("exec", execId)));
  }

  async wait(containerId: string, execId: string): Promise<Exit> {
    return this.process(containerId, execId).ended;
  }

  /** Removes a container that has ended, or kills one that was never started or is just being made. @throws RuntimeError `failed_precondition` when it runs. */
  async remove(containerId: string): Promise<void> {
    await this.#creating.get(containerId)?.catch(() => { /* told to who made it; below it is not found */ });
    const container = this.container(containerId);
    this.#requireStatus(container, "remove", ["created", "stopped"]);
    if (container.removing) throw new RuntimeError("failed_precondition", `remove container "${containerId}": it is being removed`, { reason: "wrong_state" });
    container.removing = true;
    const failures = await container.teardown.run();
    this.#containers.delete(containerId);
    this.shareMemory();
    for (const process of container.processes) process.stdio.forget();
    const [first] = failures;
    if (first !== undefined) throw RuntimeError.wrap(first, `remove container "${containerId}"`);
  }

  async pause(containerId: string): Promise<void> {
    const container = this.container(containerId);
    await container.changes.run(async () => {
      this.#requireStatus(container, "pause", ["running"]);
      await this.#context.crun.pause(container.name.madeAs, bundleFile(container.name.madeAs, "crun.log"));
      container.paused = true;
    });
  }

  async resume(containerId: string): Promise<void> {
    const container = this.container(containerId);
    await container.changes.run(async () => {
      this.#requireStatus(container, "resume", ["paused"]);
      await this.#context.crun.resume(container.name.madeAs, bundleFile(container.name.madeAs, "crun.log"));
      container.paused = false;
    });
  }

  /** Changes limits; `resources` is OCI's `linux.resources`. */
  async update(containerId: string, resources: OciResources): Promise<void> {
    const container = this.container(containerId);
    const { madeAs } = container.name;
    await container.changes.run(async () => {
      this.#requireStatus(container, "update", ["created", "running", "paused"]);
      container.memoryLimited = limitsMemory(resources) ?? container.memoryLimited;
      this.shareMemory(); // memory may have been plugged for this very change
      const file = bundleFile(madeAs, "resources.json");
      await writeFile(file, JSON.stringify(resources));
      await this.#context.crun.update(madeAs, bundleFile(madeAs, "crun.log"), file);
    });
  }

  /** SIGTERM to what runs, SIGKILL after the grace. For the end of the VM. */
  async stopAll(graceMs: number): Promise<void> {
    const running = [...this.#containers.values()].filter(({ init }) => !init.reaped);
    const processes = [...running.map(({ init }) => init), ...this.#vmProcesses.values()].filter(({ reaped }) => !reaped);
    if (graceMs > 0) {
      for (const process of processes) process.signal(15);
      await settledWithin(processes, graceMs);
    }
    killCgroup(cgroups.containers);
    killCgroup(cgroups.vm);
    await settledWithin(processes, killTimeoutMs);
  }

  /** The host has taken these events: what was kept of ended processes goes. A container itself stays until it is removed. */
  forgetUpTo(acknowledged: bigint): void {
    for (const { init } of this.#containers.values()) if (init.isForgettable(acknowledged)) init.stdio.forget();
    for (const processes of [this.#vmProcesses, ...[...this.#containers.values()].map(({ execs }) => execs)]) {
      for (const [execId, process] of processes) {
        if (!process.isForgettable(acknowledged)) continue;
        process.stdio.forget();
        processes.delete(execId);
      }
    }
  }

  /** Gives containers of a clone their names: old name to new. All or none. */
  rename(names: Readonly<Record<string, string>>): void {
    const renamed = Object.entries(names).map(([from, to]) => ({ container: this.container(from), to: requireId("container", to) }));
    for (const { container } of renamed) this.#containers.delete(container.containerId);
    for (const { container, to } of renamed) {
      if (this.#containers.has(to)) throw new RuntimeError("already_exists", `rename to "${to}": that container exists`, { reason: "container_exists" });
      container.name.containerId = to;
      this.#containers.set(to, container);
    }
  }

  /** @throws RuntimeError `not_found` (reason `container_not_found`). */
  container(containerId: string): Container {
    const container = this.#containers.get(containerId);
    if (container === undefined) throw new RuntimeError("not_found", `container "${containerId}" does not exist in the guest`, { reason: "container_not_found" });
    return container;
  }

  /** @throws RuntimeError `not_found`. */
  process(containerId: string, execId: string): GuestProcess {
    const process = containerId === "" ? this.#vmProcesses.get(execId) : execId === "" ? this.container(containerId).init : this.container(containerId).execs.get(execId);
    if (process === undefined) throw new RuntimeError("not_found", `process "${execId}" does not exist in ${containerId === "" ? "the guest" : `container "${containerId}"`}`, { reason: "process_not_found" });
    return process;
  }

  get all(): readonly Container[] { return [...this.#containers.values()]; }
  get vmProcesses(): readonly GuestProcess[] { return [...this.#vmProcesses.values()]; }

  async #create(request: CreateContainerRequest, undo: UndoStack): Promise<Container> {
    const { containerId } = request;
    const given = parseSpec(request.specJson);
    await timePart("mount", () => this.#context.storages.addAll(request.storages, undo));
    await checkRootAndCwd(given, request.createCwd);
    const user = await timePart("look up user", () => lookUpUser(request.user, given.root.path));
    const spec = prepareSpec(given, containerId, prepareProcess(given.process, request.stdio, user));
    await makeBundle(containerId, spec, undo);
    this.shareMemory({ memoryLimited: limitsMemory(spec.linux?.resources) ?? false });
    const cgroup = containerCgroup(containerId);
    undo.add("cgroup", () => removeCgroup(cgroup));
    undo.add("crun's container", () => this.#deleteFromCrun(containerId));
    const name: ContainerName = { containerId, madeAs: containerId };
    const origin = { container: name, execId: "", cgroup, logFile: bundleFile(containerId, "init.log") };
    const init = await this.#startByCrun(origin, spec.process, request.stdio, (files) => this.#context.crun.create(containerId, bundleFile(containerId), files));
    undo.add("container's processes", () => killAndWait(init));
    undo.add("OOM watch", watchOom(name, cgroup, this.#context.events));
    undo.add("mount namespace", holdMountNamespace(init.pid));
    if (request.readAhead) readAhead(`/proc/${init.pid}/root`, spec.process);
    const spare = request.forExecs ? await this.#workAhead({ name, cgroup }, undo) : undefined;
    return new Container(name, spec, init, undo.move(), spare);
  }

  /** What the start of a container for execs, and its first exec, would have to wait for. */
  async #workAhead(container: Pick<Container, "name" | "cgroup">, undo: UndoStack): Promise<SpareExec> {
    const { crun, stdioPort } = this.#context;
    const { madeAs } = container.name;
    await crun.start(madeAs, bundleFile(madeAs, "crun.log"));
    const spare = await SpareExec.make(container, crun, stdioPort);
    undo.add("spare exec", () => spare.drop());
    return spare;
  }

  async #exec(container: Container, request: ExecRequest): Promise<GuestProcess> {
    const { madeAs } = container.name;
    const { execId } = request;
    // The root as the container's processes see it, with everything mounted in it.
    const user = await timePart("look up user", () => lookUpUser(request.user, `/proc/${container.init.pid}/root`));
    const process = prepareProcess(parseProcess(request.processJson), request.stdio, user);
    const json = JSON.stringify(withContainerDefaults(process, container.spec));
    const spare = container.takeSpare(request, json);
    const base = spare === undefined ? `exec-${execId}` : spareName;
    const file = bundleFile(madeAs, `${base}.json`);
    if (spare === undefined) writeFileSync(file, json); // at once: see Crun
    const cgroup = request.ownCgroup ? spare?.cgroup ?? makeCgroup(container.execCgroup(execId)) : undefined;
    const origin = { container: container.name, execId, cgroup: container.cgroup, logFile: bundleFile(madeAs, `${base}.log`) };
    const removeFiles = (): void => {
      for (const path of [file, origin.logFile, bundleFile(madeAs, `${base}.pid`)]) rmSync(path, { force: true });
    };
    try {
      const started = spare !== undefined ? await this.#take(origin, spare.stdio, () => spare.crun.finish(process.args[0] ?? ""))
        : await this.#startByCrun(origin, process, request.stdio, (files) => this.#context.crun.exec(madeAs, file, { ...files, cgroup: cgroup?.slice(container.cgroup.length) }));
      void started.ended.then(removeFiles); // rm with force fails only if the tmpfs does
      if (cgroup !== undefined) void started.ended.then(() => removeIfEmpty(cgroup));
      return started;
    } catch (error) {
      removeFiles();
      if (cgroup !== undefined) removeIfEmpty(cgroup);
      throw error;
    }
  }

  /** Prepares stdio, lets crun start a process and takes over what crun leaves: pid, terminal, exit. */
  async #startByCrun(origin: GuestProcess["origin"] & { readonly logFile: string }, { args }: OciProcess, stdio: Stdio | undefined, start: (files: Parameters<Crun["create"]>[2]) => Promise<number>): Promise<GuestProcess> {
    const base = bundleFile(origin.container?.madeAs ?? "", origin.execId === "" ? "init" : `exec-${origin.execId}`);
    const console = stdio?.terminal ? ConsoleSocket.open(`${base}.sock`) : undefined;
    const processStdio = ProcessStdio.prepare(stdio, this.#context.stdioPort, console);
    return this.#take(origin, processStdio, () => start({ program: args[0] ?? "", stdio: processStdio.childStdio, consoleSocketPath: console?.path, pidFile: `${base}.pid`, logFile: origin.logFile }));
  }

  /** Takes over a process that is being started, with its stdio. */
  async #take(origin: GuestProcess["origin"], stdio: ProcessStdio, start: () => Promise<number>): Promise<GuestProcess> {
    const { reaper, events } = this.#context;
    try {
      return await reaper.whileStarting(async () => {
        const oomKillsBefore = oomKillCount(origin.cgroup);
        const pid = await start();
        stdio.connect();
        return new GuestProcess(origin, pid, stdio, reaper.claim(pid), events, oomKillsBefore);
      });
    } catch (error) {
      stdio.abandon();
      throw error;
    }
  }

  async #execInVm(request: ExecRequest): Promise<number> {
    requireUnused(request.execId, this.#vmProcesses, new Map());
    const process = await startVmProcess(request, this.#context);
    this.#vmProcesses.set(request.execId, process);
    return process.pid;
  }

  async #deleteFromCrun(containerId: string): Promise<void> {
    try {
      await this.#context.crun.delete(containerId, bundleFile(containerId, "crun.log"), true);
    } catch (error) {
      // A create that failed has left nothing, or crun has cleaned up itself.
      if (!RuntimeError.is(error, "not_found")) throw error;
    }
  }

  #requireStatus(container: Container, operation: string, allowed: readonly Container["status"][]): void {
    if (allowed.includes(container.status) && !container.removing) return;
    throw new RuntimeError("failed_precondition", `${operation} container "${container.containerId}": it is ${container.removing ? "being removed" : container.status}, must be ${allowed.join(" or ")}`, { reason: "wrong_state" });
  }
}

/** Whether a container with these has a memory limit; undefined: they do not say. */
function limitsMemory(resources: OciResources | undefined): boolean | undefined {
  const limit = resources?.memory?.limit;
  return limit === undefined ? undefined : limit > 0;
}

/** What an exec left running keeps its cgroup, which goes with the container. */
function removeIfEmpty(cgroup: string): void {
  try {
    removeCgroup(cgroup);
  } catch (error) {
    if (!isErrnoException(error, "EBUSY")) throw error;
  }
}

/** crun takes an exec's process as it is; what docker and containerd leave out comes from the container. */
function withContainerDefaults(process: OciProcess, { process: init }: RunnableSpec): OciProcess {
  return { capabilities: init.capabilities, rlimits: init.rlimits, noNewPrivileges: init.noNewPrivileges, ...process };
}

/**
 * crun makes a missing working directory by itself, after mounting the volumes, which is docker's
 * behaviour; so only a caller that does not want that is checked for.
 */
async function checkRootAndCwd(spec: RunnableSpec, createCwd: boolean): Promise<void> {
  let root: RootFolder;
  try {
    root = RootFolder.open(spec.root.path);
  } catch (error) {
    throw new RuntimeError("invalid_argument", `open root file system "${spec.root.path}"`, { cause: error });
  }
  using folder = root;
  const { cwd } = spec.process;
  if (createCwd || liesOnMount(cwd, spec) || folder.hasFolder(cwd)) return;
  throw new RuntimeError("not_found", `working directory "${cwd}" does not exist in the image`, { reason: "cwd_not_found", hint: "name a working directory that exists in the container" });
}

async function makeBundle(containerId: string, spec: RunnableSpec, undo: UndoStack): Promise<void> {
  undo.add("bundle", () => rm(bundleFile(containerId), { recursive: true, force: true }));
  await mkdir(bundleFile(containerId), { recursive: true, mode: 0o700 });
  await writeFile(bundleFile(containerId, "config.json"), JSON.stringify(spec));
}

/** Taking its mounts apart is then no part of the end of the container's process, which somebody waits for. Returns how to let it go. */
function holdMountNamespace(pid: number): () => void {
  try {
    const fd = openSync(`/proc/${pid}/ns/mnt`, "r");
    return () => closeSync(fd);
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return () => undefined; // the process has ended: its start will say so
    throw error;
  }
}

async function killAndWait(init: GuestProcess): Promise<void> {
  if (!killCgroup(init.origin.cgroup)) init.signal(SIGKILL);
  await settledWithin([init], killTimeoutMs);
}

async function settledWithin(processes: readonly GuestProcess[], limitMs: number): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, limitMs);
  await Promise.race([Promise.all(processes.map(({ ended }) => ended)), late]);
  clearTimeout(timer);
}

function requireUnused(execId: string, processes: ReadonlyMap<string, GuestProcess>, starting: ReadonlyMap<string, unknown>): void {
  if (processes.has(execId) || starting.has(execId)) throw new RuntimeError("already_exists", `exec "${execId}" exists already`, { reason: "exec_exists" });
}
