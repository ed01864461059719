import { fromBinary } from "@bufbuild/protobuf";
import { anyIs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Any, Timestamp } from "@bufbuild/protobuf/wkt";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { OciProcess, OciResources } from "../../shared/oci/runtime-spec.ts";
import { CreateOptionsSchema, ExecSpecSchema, type CreateOptions, type ExecSpec } from "../../shared/protocol/gen/owner_pb.ts";
import type { Task } from "../../shared/protocol/gen/containerd/task_pb.ts";
import { Status } from "../../shared/protocol/gen/containerd/types_pb.ts";
import type { ServiceImplementation } from "../../shared/ttrpc/server.ts";
import type { ContainerState } from "../sandbox/container-state.ts";
import type { GuestProcess, ProcessEnd } from "../sandbox/process.ts";
import type { Owner } from "./owner.ts";
import { toTaskMetrics } from "./task-metrics.ts";

/** Limit of one call into the guest that should be quick; a stuck guest answers nothing. */
const guestCallTimeoutMs = 30_000;
/** Limit of making a container: disks, shares, mounts, crun, on a slow emulated CPU. */
const createTimeoutMs = 60_000;
const taskApiVersion = "2";
const ociProcessType = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/** containerd's words for a container's state. */
const taskStatus: Readonly<Record<ContainerState, Status>> = {
  creating: Status.CREATED, created: Status.CREATED, running: Status.RUNNING, paused: Status.PAUSED, stopped: Status.STOPPED,
};

/** containerd's Task API over one owner. */
export function taskService(owner: Owner): ServiceImplementation<typeof Task> {
  const wait = { timeoutMs: guestCallTimeoutMs };
  return {
    async create(request) {
      const options = createOptions(request.options);
      await owner.createContainer({
        containerId: request.id,
        bundle: request.bundle,
        rootfs: request.rootfs.map(({ type, source, options: mountOptions }) => ({ type, source, options: mountOptions })),
        terminal: request.terminal,
        options,
      }, createTimeoutMs);
      return { pid: taskPid(owner) };
    },
    async start(request) {
      if (request.execId === "") await owner.startContainer(request.id, guestCallTimeoutMs);
      else await (await owner.ready()).startExec(request.id, request.execId, wait);
      return { pid: taskPid(owner) };
    },
    async exec(request) {
      const sandbox = await owner.ready();
      const { process, spec } = execSpec(request.spec);
      sandbox.registerExec({
        containerId: request.id,
        execId: request.execId,
        process: { ...process, terminal: request.terminal },
        user: spec.user,
        io: { terminal: request.terminal, stdin: spec.stdin, log: undefined, holdOutput: spec.holdOutput },
        terminalSize: spec.terminalSize,
        autoRemove: spec.autoRemove,
        ownCgroup: spec.ownCgroup,
      });
      return {};
    },
    async state(request) {
      const sandbox = owner.adopting ? await owner.ready() : requireSandbox(owner);
      const container = sandbox.container(request.id);
      const process = container.process(request.execId);
      const status = request.execId === "" ? taskStatus[container.state] : execStatus(process);
      return {
        id: request.execId === "" ? request.id : request.execId,
        bundle: container.bundle,
        pid: process.state === "stopped" ? 0 : taskPid(owner),
        status,
        terminal: process.terminal,
        exitStatus: process.end?.exitStatus ?? 0,
        ...(process.end !== undefined && { exitedAt: exitedAt(process.end) }),
      };
    },
    async wait(request, { signal }) {
      const end = await (await owner.ready()).process(request.id, request.execId).wait({ signal });
      return { exitStatus: end.exitStatus, exitedAt: exitedAt(end) };
    },
    async kill(request) {
      await (await owner.ready()).kill(request.id, request.execId, request.signal, request.all, wait);
      return {};
    },
    async delete(request) {
      const sandbox = await owner.ready();
      const process = request.execId === "" ? (await owner.deleteContainer(request.id, guestCallTimeoutMs)).init : sandbox.deleteExec(request.id, request.execId);
      return { pid: taskPid(owner), exitStatus: process.end?.exitStatus ?? 0, exitedAt: process.end === undefined ? timestampFromMs(Date.now()) : exitedAt(process.end) };
    },
    async pids(request) {
      const sandbox = await owner.ready();
      const container = sandbox.container(request.id);
      if (container.state === "stopped") return { processes: [] };
      const { processes } = await sandbox.agent.guest.listProcesses({ containerId: request.id }, wait);
      return { processes: processes.flatMap((process) => process.cgroupPids).map((pid) => ({ pid })) };
    },
    async pause(request) {
      const sandbox = await owner.ready();
      await sandbox.pause(request.id, wait);
      owner.noteState(sandbox.container(request.id));
      return {};
    },
    async resume(request) {
      const sandbox = await owner.ready();
      await sandbox.resume(request.id, wait);
      owner.noteState(sandbox.container(request.id));
      return {};
    },
    checkpoint() {
      throw new RuntimeError("unimplemented", "checkpoint a container: a sandbox is saved as a whole");
    },
    async resizePty(request) {
      await (await owner.ready()).resize(request.id, request.execId, { rows: request.height, columns: request.width }, wait);
      return {};
    },
    async closeIO(request) {
      if (request.stdin) (await owner.ready()).process(request.id, request.execId).io.endStdin();
      return {};
    },
    async update(request) {
      await (await owner.ready()).update(request.id, parseResources(request.resources), wait);
      return {};
    },
    async stats(request) {
      return { stats: toTaskMetrics(await (await owner.ready()).stats(request.id, wait)) };
    },
    connect() {
      return { shimPid: process.pid, taskPid: owner.sandbox?.vm.identity.pid ?? 0, version: taskApiVersion };
    },
    async shutdown(request) {
      const { sandbox } = owner;
      if (request.now || sandbox === undefined || sandbox.containers.size === 0) void owner.finish(guestCallTimeoutMs);
      return {};
    },
  };
}

/** The pid Task clients see. It is the VMM's: our own front ends do not look at it. */
function taskPid(owner: Owner): number {
  return owner.sandbox?.vm.identity.pid ?? 0;
}

/** State answers at once, so it does not wait for a sandbox that is still starting. */
function requireSandbox(owner: Owner): NonNullable<Owner["sandbox"]> {
  if (owner.sandbox === undefined) throw new RuntimeError("failed_precondition", "the sandbox is still starting", { reason: "not_ready" });
  return owner.sandbox;
}

function execStatus(process: GuestProcess): Status {
  return { created: Status.CREATED, running: Status.RUNNING, stopped: Status.STOPPED }[process.state];
}

function exitedAt(end: ProcessEnd): Timestamp {
  return timestampFromMs(Number(end.exitedAtUnixNanos / 1_000_000n));
}

/** Our own options when the caller sent them; a plain Task client gets containerd's habits: no log, output dropped unless attached. */
function createOptions(any: Any | undefined): CreateOptions {
  return fromBinary(CreateOptionsSchema, any !== undefined && anyIs(any, CreateOptionsSchema) ? any.value : new Uint8Array());
}

function execSpec(any: Any | undefined): { process: OciProcess; spec: ExecSpec } {
  if (any !== undefined && anyIs(any, ExecSpecSchema)) {
    const spec = fromBinary(ExecSpecSchema, any.value);
    return { process: parseJson<OciProcess>(spec.processJson, "process"), spec };
  }
  if (any?.typeUrl.endsWith(ociProcessType) === true) return { process: parseJson<OciProcess>(any.value, "process"), spec: fromBinary(ExecSpecSchema, new Uint8Array()) };
  throw new RuntimeError("invalid_argument", `exec: unknown kind of spec "${any?.typeUrl ?? ""}"`);
}

function parseResources(any: Any | undefined): OciResources {
  return any === undefined ? {} : parseJson<OciResources>(any.value, "resources");
}

/** Parses JSON of a caller on our private socket; the guest's crun checks its contents. */
function parseJson<T>(bytes: Uint8Array, what: string): T {
  try {
    return JSON.parse(Buffer.from(bytes).toString()) as T;
  } catch (error) {
    throw new RuntimeError("invalid_argument", `parse ${what}`, { cause: error });
  }
}
