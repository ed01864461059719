import { setTimeout as delay } from "node:timers/promises";
import { StdioMux } from "../shared/channel/stdio-mux.ts";
import { linkAsDuplex } from "../shared/channel/link.ts";
import { RuntimeError, describeError, isErrnoException } from "../shared/base/errors.ts";
import { Logger } from "../shared/base/log.ts";
import { AgentService } from "../shared/protocol/gen/agent/agent_pb.ts";
import { Health } from "../shared/protocol/gen/agent/health_pb.ts";
import { Guest as GuestDescriptor } from "../shared/protocol/gen/casemate_pb.ts";
import { TtrpcServer } from "../shared/ttrpc/server.ts";
import { makeCgroupTree } from "./cgroup/cgroup-tree.ts";
import { GuestPort, findPort } from "./channel/port.ts";
import { Containers } from "./containers/containers.ts";
import { Crun } from "./containers/crun.ts";
import { protectFromOomKiller } from "./containers/oom-score.ts";
import { MuxStdioPort } from "./containers/stdio-port.ts";
import { ContainerFiles } from "./files/container-files.ts";
import { ContainerRoot } from "./files/container-root.ts";
import { EventLog } from "./events.ts";
import type { Guest } from "./guest.ts";
import { setKernelSettings, startLoopback } from "./init/kernel-settings.ts";
import { ModuleIndex, loadLaterModules, modulesForTheChannel } from "./init/modules.ts";
import { mountSystem } from "./init/mounts.ts";
import { survive } from "./init/survive.ts";
import { paths } from "./paths.ts";
import { Reaper } from "./reaper.ts";
import { agentService } from "./services/agent-service.ts";
import { CallsUnderWay } from "./services/calls-under-way.ts";
import { guestService } from "./services/guest-service.ts";
import { healthService } from "./services/health-service.ts";
import { Storages } from "./storage/storages.ts";
import { autoOnlineMemory } from "./system/hotplug.ts";
import { Optimizer } from "./system/optimizer.ts";
import { SandboxFiles } from "./system/sandbox-files.ts";
import { agentVersion } from "./version.ts";

/** Names of the two virtio-serial ports; the host gives them in QEMU's arguments. */
const controlPortName = "casemate.control", dataPortName = "casemate.data";

const portPollMs = 2;

/** The agent's start as PID 1, in order. Nothing here waits for the host. */
function main(): void {
  const log = new Logger();
  survive(log);
  mountSystem();
  const reaper = new Reaper();
  reaper.start();
  setKernelSettings();
  startLoopback();
  makeCgroupTree();
  protectFromOomKiller();
  const modules = ModuleIndex.open();
  for (const name of modulesForTheChannel) modules.loadNow(name);
  const mux = new StdioMux();
  const guest = makeGuest(log, reaper, mux, modules);
  serve(guest, mux);
  autoOnlineMemory();
  log.info("agent ready", { version: agentVersion, uptimeSeconds: Math.round(process.uptime() * 100) / 100 });
}

function makeGuest(log: Logger, reaper: Reaper, mux: StdioMux, modules: ModuleIndex): Guest {
  const events = new EventLog();
  const storages = new Storages();
  const sandboxFiles = new SandboxFiles();
  sandboxFiles.make();
  sandboxFiles.mountBootId();
  const crun = new Crun({ file: "crun", root: paths.crun, reaper });
  const containers = new Containers({ crun, reaper, events, storages, stdioPort: new MuxStdioPort(mux) });
  const files = new ContainerFiles((containerId) => ContainerRoot.of(containers.container(containerId)));
  const calls = new CallsUnderWay();
  return { containers, files, storages, events, sandboxFiles, optimizer: new Optimizer(() => calls.some), calls, log, modulesLoaded: loadLaterModules(modules, log), loadModule: (name) => modules.load(name) };
}

/** Calls on the control port, stdio on the data port, so that a flood of output never delays a kill. */
function serve(guest: Guest, mux: StdioMux): void {
  const onData = (): void => guest.optimizer.heard();
  const server = new TtrpcServer();
  server.addService(AgentService, guest.calls.track(agentService(guest), ["startContainer", "removeContainer", "pauseContainer", "resumeContainer", "updateContainer"]));
  server.addService(GuestDescriptor, guest.calls.track(guestService(guest), ["createContainer", "exec"]));
  server.addService(Health, healthService);
  void whenPortAppears(dataPortName, (path) => new GuestPort(path, (link) => mux.attach(link), { onData }));
  void whenPortAppears(controlPortName, (path) => new GuestPort(path, (link) => {
    server.serve(linkAsDuplex(link)).catch((error: unknown) => guest.log.info("connection over", { error: describeError(error) }));
  }, { onHostGone: collectYoungGarbage, onData }));
}

/** What is saved without a host would do this in every one of its clones, at the worst time. */
function collectYoungGarbage(): void {
  globalThis.gc?.({ type: "minor" }); // --expose-gc, guest-image/init
}

/** The driver tells of its ports some time after it was loaded. Without them the agent cannot be reached, so it looks for ever. */
async function whenPortAppears(name: string, open: (path: string) => void): Promise<void> {
  for (;;) {
    try {
      open(findPort(name));
      return;
    } catch (error) {
      if (!RuntimeError.is(error, "not_found") && !isErrnoException(error, "ENOENT")) throw error;
    }
    await delay(portPollMs);
  }
}

main();
