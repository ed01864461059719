import type { ExecSpec, Owner as OwnerApi } from "../../shared/protocol/gen/owner_pb.ts";
import type { FileRequest } from "../../shared/protocol/gen/file_pb.ts";
import type { OciProcess } from "../../shared/oci/runtime-spec.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { ServiceImplementation } from "../../shared/ttrpc/server.ts";
import type { GuestProcess } from "../sandbox/process.ts";
import { sandboxPaths } from "../store/paths.ts";
import { attachSession } from "./attach-session.ts";
import { readHostUsage } from "./host-usage.ts";
import type { Owner } from "./owner.ts";
import { toTaskMetrics } from "./task-metrics.ts";

/** Limit of saving a sandbox, whose disks may be large. */
const captureTimeoutMs = 10 * 60_000;
/** Limit of one call into the guest that should be quick. */
const guestCallTimeoutMs = 30_000;

/** Our own service over one owner: stdio, inspection, events, stop, and processes in the guest itself. */
export function ownerService(owner: Owner): ServiceImplementation<typeof OwnerApi> {
  return {
    async *attach(inputs) {
      const sandbox = await owner.ready();
      const client = owner.clientAttached();
      try {
        yield* attachSession(inputs, {
          process: (containerId, execId) => sandbox.process(containerId, execId),
          resize: (process: GuestProcess, size) => sandbox.resize(process.containerId, process.execId, size, { timeoutMs: guestCallTimeoutMs }),
        }, owner.log);
      } finally {
        client.detached();
      }
    },
    inspect() {
      const { sandbox } = owner;
      if (sandbox === undefined) return { ownerPid: process.pid, state: "starting" };
      return {
        sandboxId: sandbox.config.sandboxId,
        ownerPid: process.pid,
        vmmPid: sandbox.vm.identity.pid,
        accelerator: sandbox.vm.accelerator,
        memoryBytes: BigInt(sandbox.size.memoryBytes),
        vcpuCount: sandbox.size.vcpuCount,
        stepTimes: owner.stepTimes.kept.map(({ operation, step, startMs, durationMs, depth }) => ({ operation, step, depth, startMicros: BigInt(Math.round(startMs * 1000)), durationMicros: BigInt(Math.round(durationMs * 1000)) })),
        stepsBeganUnixMicros: BigInt(Math.round(owner.stepTimes.beganUnixMs * 1000)),
        startedBy: sandbox.startedBy,
        state: sandbox.state,
        guestKernel: sandbox.guestKernel,
        bootMs: BigInt(Math.round(sandbox.timings.reduce((end, timing) => Math.max(end, timing.startMs + timing.durationMs), 0))),
        containers: [...sandbox.containers.values()].map((container) => ({
          containerId: container.containerId,
          status: container.state,
          guestPid: container.init.guestPid,
          execIds: [...container.execs.keys()],
          ipAddress: sandbox.addresses[0] ?? "",
        })),
      };
    },
    async *events(_request, { signal }) {
      for await (const event of owner.events.subscribe(signal)) yield { ...event, attributes: { ...event.attributes } };
    },
    async stop(request) {
      await owner.stop(request.timeoutMs);
      return {};
    },
    async stats({ containerIds }) {
      const sandbox = await owner.ready();
      const wanted = [...sandbox.containers.keys()].filter((containerId) => containerIds.length === 0 || containerIds.includes(containerId));
      const containers = await Promise.all(wanted.map(async (containerId) => ({ containerId, metrics: toTaskMetrics(await sandbox.stats(containerId, { timeoutMs: guestCallTimeoutMs })) })));
      const { memoryBytes, vcpuCount } = sandbox.size;
      return { containers, hostProcesses: readHostUsage(sandbox.config.sandboxId, sandbox.vm.identity.pid), memoryBytes: BigInt(memoryBytes), vcpuCount, readAtNanos: process.hrtime.bigint() };
    },
    async pauseSandbox() {
      await (await owner.ready()).pauseSandbox({ timeoutMs: guestCallTimeoutMs });
      owner.noteSandboxState();
      return {};
    },
    async resumeSandbox() {
      await (await owner.ready()).resumeSandbox({ timeoutMs: guestCallTimeoutMs });
      owner.noteSandboxState();
      return {};
    },
    async exec({ containerId, execId, terminal, spec }) {
      const sandbox = await owner.ready();
      if (spec === undefined) throw new RuntimeError("invalid_argument", `exec "${execId}": no spec`);
      if (!sandbox.awaitsStart(containerId, execId)) sandbox.registerExec({
        containerId,
        execId,
        process: { ...parseProcess(spec), terminal },
        user: spec.user,
        io: { terminal, stdin: spec.stdin, log: undefined, holdOutput: spec.holdOutput },
        terminalSize: spec.terminalSize,
        autoRemove: spec.autoRemove,
        ownCgroup: spec.ownCgroup,
      });
      await sandbox.startExec(containerId, execId, { timeoutMs: guestCallTimeoutMs });
      return {};
    },
    async *lease(inputs) {
      const released = owner.keeping.hold(inputs);
      yield {};
      await released;
    },
    async limit({ totalMs, idleMs }) {
      await owner.ready(); // what runs in a sandbox, and keeps it from being idle, is known only then
      owner.keeping.limit({ totalMs: Number(totalMs), idleMs: Number(idleMs) });
      return {};
    },
    async capture({ name, keep, stop }) {
      const { pauseMs, touchedBytes } = await owner.capture({ name, keep, goOn: !stop, timeoutMs: captureTimeoutMs });
      if (stop) void owner.finish(0);
      return { pauseMs, touchedBytes: BigInt(touchedBytes) };
    },
    async file(request) {
      const sandbox = await owner.ready();
      sandbox.container(request.containerId).require("file");
      const used = owner.keeping.use();
      const moved = goesByLane(request) ? owner.lane.moving() : undefined;
      try {
        return await sandbox.agent.guest.file(request, { timeoutMs: guestCallTimeoutMs });
      } finally {
        moved?.();
        used();
      }
    },
    async *watchFile(request, { signal }) {
      const sandbox = await owner.ready();
      sandbox.container(request.containerId).require("file");
      yield* sandbox.agent.guest.watchFile(request, { signal });
    },
    async *lane(inputs) {
      const sandbox = await owner.ready();
      yield* owner.lane.lend(sandbox.vm, sandboxPaths(sandbox.config.folders, sandbox.config.sandboxId).laneSocket, inputs);
    },
  };
}

function goesByLane({ operation }: FileRequest): boolean {
  return (operation.case === "read" && operation.value.byLane) || (operation.case === "write" && operation.value.laneLength > 0);
}

/** Parses the process of a caller on our private socket. */
function parseProcess(spec: ExecSpec): OciProcess {
  try {
    return JSON.parse(Buffer.from(spec.processJson).toString()) as OciProcess; // the agent checks its fields
  } catch (error) {
    throw new RuntimeError("invalid_argument", "parse process", { cause: error });
  }
}
