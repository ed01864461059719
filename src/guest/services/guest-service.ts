import { release } from "node:os";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import { OperationQueue } from "../../shared/base/operation-queue.ts";
import { withUndo } from "../../shared/base/undo.ts";
import type { Guest as GuestDescriptor, GuestProcessSchema, RefreshRequest } from "../../shared/protocol/gen/casemate_pb.ts";
import type { ServiceImplementation } from "../../shared/ttrpc/server.ts";
import { cgroupPids } from "../cgroup/cgroup-tree.ts";
import type { Container } from "../containers/container.ts";
import type { GuestProcess } from "../containers/guest-process.ts";
import type { Guest } from "../guest.ts";
import { readClock, stepClock } from "../system/clock.ts";
import { addEntropy } from "../system/entropy.ts";
import { powerOffNow, syncDisks } from "../system/power-off.ts";
import { agentVersion, guestProtocolVersion } from "../version.ts";

/** Time for the answer to leave the guest before the power goes. */
const answerGraceMs = 100;
/** A call that hangs in the guest's kernel does not hold back a list for longer; crun takes some 2 s under emulation. */
const settleTimeoutMs = 15_000;
/** A machine-id is 32 lower-case hexadecimal digits, not all zero (machine-id(5)). */
const machineIdPattern = /^(?!0{32})[0-9a-f]{32}$/;
const hostnamePattern = /^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$/;

/** casemate.v1.Guest (proto/casemate.proto, docs/protocol.md). */
export function guestService(guest: Guest): ServiceImplementation<typeof GuestDescriptor> {
  const { containers, files, storages, events, sandboxFiles } = guest;
  // In their order: whoever has given up waiting for a mount takes it back, and its device may go next.
  const storageCalls = new OperationQueue();
  return {
    hello: () => ({
      protocolVersion: guestProtocolVersion, agentVersion, kernelRelease: release(),
      sandboxId: sandboxFiles.sandboxId,
      lastEventSequence: events.lastSequence, acknowledgedEventSequence: events.acknowledgedSequence,
    }),
    createContainer: async (request) => {
      await guest.modulesLoaded;
      return { pid: await containers.create(request) };
    },
    exec: async (request) => ({ pid: await containers.exec(request) }),
    events: ({ afterSequence }, { signal }) => events.follow(afterSequence, signal),
    acknowledgeEvents: ({ upToSequence }) => {
      events.acknowledge(upToSequence);
      containers.forgetUpTo(events.acknowledgedSequence);
      return {};
    },
    listProcesses: async ({ containerId }) => {
      if (containerId === "") await guest.calls.settled(settleTimeoutMs);
      const chosen = containerId === "" ? containers.all : [containers.container(containerId)];
      return { processes: [...chosen.flatMap(describeContainer), ...(containerId === "" ? containers.vmProcesses.map((process) => describeProcess(process, process.reaped ? "stopped" : "running")) : [])] };
    },
    addStorages: async (request) => storageCalls.run(async () => {
      await guest.modulesLoaded;
      // They stay until RemoveStorages: nothing takes the undo steps of a success.
      await withUndo(async (undo) => { await storages.addAll(request.storages, undo); undo.move(); });
      return {};
    }),
    removeStorages: async ({ mountPoints }) => storageCalls.run(async () => {
      for (const mountPoint of [...mountPoints].reverse()) await storages.remove(mountPoint);
      return {};
    }),
    refresh: async (request) => {
      await guest.modulesLoaded;
      return refresh(guest, request);
    },
    killTree: ({ containerId, execId }) => { containers.killTree(containerId, execId); return {}; },
    file: (request) => files.perform(request),
    watchFile: (request, { signal }) => files.watch(request, signal),
    powerOff: async ({ graceMs }) => {
      await endEverything(guest, graceMs);
      setTimeout(powerOffNow, answerGraceMs);
      return {};
    },
  };
}

/** Gives a clone what it must not share with its siblings: random numbers first, because the rest may draw some. */
function refresh({ containers, sandboxFiles, optimizer }: Guest, { sandboxId, hostname, machineId, entropy, unixNanos, containerIds }: RefreshRequest): { unixNanos: bigint } {
  if (hostname !== "" && !hostnamePattern.test(hostname)) throw new RuntimeError("invalid_argument", `host name "${hostname.slice(0, 80)}": must be up to 64 letters, digits, "-" and "."`);
  if (machineId !== "" && !machineIdPattern.test(machineId)) throw new RuntimeError("invalid_argument", "machine id: must be 32 hexadecimal digits");
  if (entropy.length === 0) {
    stepClock(unixNanos);
    return { unixNanos: readClock() };
  }
  optimizer.holdBack(sandboxId === ""); // a template's rehearsal: no sandbox has a name there yet
  addEntropy(entropy);
  sandboxFiles.newBootId();
  if (unixNanos !== 0n) stepClock(unixNanos);
  sandboxFiles.setSandboxId(sandboxId);
  sandboxFiles.setHostname(hostname);
  if (machineId !== "") sandboxFiles.setMachineId(machineId);
  containers.rename(containerIds);
  // Last: whoever watches it may use everything above.
  sandboxFiles.nextGeneration();
  return { unixNanos: readClock() };
}

/** Ends all processes and writes everything back; failures are logged, because the power goes in any case. */
async function endEverything({ containers, storages, log }: Guest, graceMs: number): Promise<void> {
  const steps: readonly [string, () => Promise<unknown>][] = [
    ["end processes", () => containers.stopAll(graceMs)],
    ["unmount", () => storages.removeAll()],
    ["write back", () => syncDisks()],
  ];
  for (const [name, run] of steps) {
    try {
      await run();
    } catch (error) {
      log.warn("power off", { step: name, error: describeError(error) });
    }
  }
}

function describeContainer(container: Container): MessageInitShape<typeof GuestProcessSchema>[] {
  const init = { ...describeProcess(container.init, container.status), cgroupPids: cgroupPids(container.cgroup) };
  return [init, ...[...container.execs.values()].map((process) => describeProcess(process, process.reaped ? "stopped" : container.paused ? "paused" : "running"))];
}

function describeProcess(process: GuestProcess, status: string): MessageInitShape<typeof GuestProcessSchema> {
  const { containerId, origin: { execId } } = process;
  return { containerId, execId, pid: process.pid, status, streamId: process.stdio.streamId, terminal: process.stdio.hasTerminal, exit: process.exit, ...process.stdio.positions };
}
