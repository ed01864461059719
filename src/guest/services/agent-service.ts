import { existsSync } from "node:fs";
import { orAbandon } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { withUndo } from "../../shared/base/undo.ts";
import type { AgentService } from "../../shared/protocol/gen/agent/agent_pb.ts";
import type { ServiceImplementation } from "../../shared/ttrpc/server.ts";
import { readCgroupStats } from "../cgroup/stats.ts";
import { toOciResources } from "../containers/oci-resources.ts";
import type { Guest } from "../guest.ts";
import { listInterfaces, updateInterface } from "../network/interfaces.ts";
import { readNetworkStats } from "../network/network-stats.ts";
import { listRoutes, updateRoutes } from "../network/routes.ts";
import { storageDrivers } from "../storage/drivers.ts";
import { followClock } from "../system/clock.ts";
import { copyFile } from "../system/copy-file.ts";
import { addEntropy } from "../system/entropy.ts";
import { memoryBlockBytes, onlineCpus, onlineMemory } from "../system/hotplug.ts";
import { agentVersion } from "../version.ts";

/** Kernel modules a CreateSandbox may name; anything else in the name is no module. */
const modulePattern = /^[a-zA-Z0-9_-]{1,64}$/;
const defaultRemoveTimeoutMs = 60_000;

/** grpc.AgentService, the part of Kata's agent protocol that our host uses (proto/agent/agent.proto). */
export function agentService(guest: Guest): ServiceImplementation<typeof AgentService> {
  const { containers, files, storages, events, sandboxFiles } = guest;
  return {
    startContainer: async ({ containerId }) => { await containers.start(containerId); return {}; },
    removeContainer: async ({ containerId, timeout }) => {
      await files.closeAll(containerId);
      // The work goes on behind a caller whose time is over.
      await orAbandon(containers.remove(containerId), `remove container "${containerId}"`, { timeoutMs: timeout === 0 ? defaultRemoveTimeoutMs : timeout * 1000 });
      return {};
    },
    signalProcess: async ({ containerId, execId, signal }) => { await containers.signal(containerId, execId, requireSignal(signal)); return {}; },
    waitProcess: async ({ containerId, execId }) => ({ status: (await containers.wait(containerId, execId)).exitStatus }),
    updateContainer: async ({ containerId, resources }) => {
      if (resources !== undefined) await containers.update(containerId, toOciResources(resources));
      return {};
    },
    statsContainer: ({ containerId }) => {
      const container = containers.container(containerId);
      return { cgroupStats: readCgroupStats(container.cgroup), networkStats: readNetworkStats(container.init.pid) };
    },
    pauseContainer: async ({ containerId }) => { await containers.pause(containerId); return {}; },
    resumeContainer: async ({ containerId }) => { await containers.resume(containerId); return {}; },
    closeStdin: ({ containerId, execId }) => { containers.process(containerId, execId).stdio.closeInput(); return {}; },
    ttyWinResize: ({ containerId, execId, row, column }) => {
      if (!containers.process(containerId, execId).stdio.resize(row, column)) throw new RuntimeError("unavailable", `resize terminal of process "${execId}": it has none`);
      return {};
    },
    updateInterface: async ({ interface: wanted }) => {
      if (wanted === undefined) throw new RuntimeError("invalid_argument", "update interface: none given");
      await guest.modulesLoaded;
      const result = await updateInterface(wanted);
      sandboxFiles.setAddresses(wanted.IPAddresses.map(({ address }) => address));
      return result;
    },
    updateRoutes: async ({ routes }) => ({ Routes: await updateRoutes(routes?.Routes ?? []) }),
    listInterfaces: async () => ({ Interfaces: await listInterfaces() }),
    listRoutes: async () => ({ Routes: await listRoutes() }),
    createSandbox: async (request) => {
      await guest.modulesLoaded;
      for (const { name } of request.kernelModules) {
        if (!modulePattern.test(name)) throw new RuntimeError("invalid_argument", `kernel module "${name.slice(0, 80)}": not a module's name`);
        await guest.loadModule(name);
      }
      if (request.sandboxId !== "") sandboxFiles.setSandboxId(request.sandboxId);
      sandboxFiles.setHostname(request.hostname);
      sandboxFiles.setDns(request.dns);
      // The sandbox's storages stay until the guest ends: nothing takes the undo steps.
      await withUndo(async (undo) => { await storages.addAll(request.storages, undo); undo.move(); });
      return {};
    },
    destroySandbox: async () => { await containers.stopAll(0); return {}; },
    onlineCPUMem: async ({ nbCpus, cpuOnly }) => {
      if (nbCpus > 0) await onlineCpus(nbCpus);
      if (!cpuOnly) {
        onlineMemory();
        guest.containers.shareMemory();
      }
      return {};
    },
    reseedRandomDev: ({ data }) => { addEntropy(data); return {}; },
    getGuestDetails: ({ memBlockSize, memHotplugProbe }) => ({
      memBlockSizeBytes: memBlockSize ? memoryBlockBytes() : 0n,
      supportMemHotplugProbe: memHotplugProbe && existsSync("/sys/devices/system/memory/probe"),
      agentDetails: { version: agentVersion, initDaemon: process.pid === 1, deviceHandlers: [], storageHandlers: Object.keys(storageDrivers), supportsSeccomp: true, extraFeatures: ["casemate.v1.Guest"] },
    }),
    setGuestDateTime: ({ Sec: seconds, Usec: micros }) => { followClock(seconds * 1_000_000_000n + micros * 1000n); return {}; },
    copyFile: async (request) => { await copyFile(request); return {}; },
    getOOMEvent: async (_request, { signal }) => {
      for await (const { kind } of events.follow(events.lastSequence, signal)) {
        if (kind.case === "oom" && kind.value.containerId !== "") return { containerId: kind.value.containerId };
      }
      throw new RuntimeError("canceled", "wait for an OOM kill: the connection ended");
    },
  };
}

/** Linux has 64 signals; 0 asks only whether the process is there. */
function requireSignal(signal: number): number {
  if (signal > 64) throw new RuntimeError("invalid_argument", `signal ${signal}: must be at most 64`);
  return signal;
}
