import type { WaitOptions } from "../../shared/base/deadline.ts";
import { describeError } from "../../shared/base/errors.ts";
import type { Logger } from "../../shared/base/log.ts";
import { kernelRandomBytes } from "../../shared/linux/random.ts";
import type { Step } from "../../shared/base/steps.ts";
import { withUndo } from "../../shared/base/undo.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import { guestProtocolVersion, type SandboxBuild } from "./create-sandbox.ts";
import type { SandboxDrivers } from "./drivers.ts";
import type { SandboxConfig } from "./sandbox-config.ts";
import { orSilence } from "./vm-death.ts";

/** No guest boots in less: a caller with less time left gets the error at once. */
const leastBootMs = 500;

/** How far the guest's clock may be behind, the way of its answer included, and how often it is set for that; a guest under load stays further behind. */
const clockToleranceNanos = 20_000_000n, maxClockTries = 5;

/** Connects to the agent, and gives the guest what it must not share with others that began as the same bytes: before anything of the user's runs. */
const meetGuestSteps: readonly Step<SandboxBuild>[] = [
  { name: "connect to the agent", run: connect },
  { name: "greet and refresh the guest", run: greet },
];

/** A guest from a template. */
export const restoreGuestSteps: readonly Step<SandboxBuild>[] = [
  { name: "restore VM", run: async (build, wait) => { build.vm = await build.surroundings.drivers.restoreVm({ config: build.config, user: build.user, undo: build.undo, wait, ...build.surroundings, nic: build.network?.nic }); } },
  ...meetGuestSteps,
];

/** A guest that boots. */
export const bootGuestSteps: readonly Step<SandboxBuild>[] = [
  { name: "boot VM", run: async (build, wait) => { build.vm = await build.surroundings.drivers.bootVm(build.config, build.user, build.surroundings.ledger, build.undo, wait, build.surroundings.memoryFd); } },
  ...meetGuestSteps,
];

/**
 * Starts the VM from the template that the config names, else cold. A template that cannot be used
 * costs the time of a cold boot, not the sandbox.
 */
export async function startGuest(build: SandboxBuild, log: Logger): Promise<void> {
  const { steps, undo, config } = build;
  // What was saved while it lived cannot come from a cold boot.
  if (config.clone !== undefined) return steps.runAll(restoreGuestSteps, build);
  if (config.template !== undefined) {
    try {
      await withUndo(async (inner) => {
        build.undo = inner;
        await steps.runAll(restoreGuestSteps, build, build.surroundings.drivers.restoreTimeoutMs(config));
        undo.adopt(inner);
      });
      return;
    } catch (error) {
      if (steps.signal?.aborted === true || steps.deadline.remainingMs < leastBootMs) throw error;
      // What is to be saved again with more in it is of no use from a cold boot.
      if (config.pristine === true) throw error;
      log.warn("template not used, booting cold", { template: config.template, error: describeError(error) });
      build.dropVm();
    } finally {
      build.undo = undo;
    }
  }
  await steps.runAll(bootGuestSteps, build);
}

async function connect(build: SandboxBuild, wait: WaitOptions): Promise<void> {
  const connection = await orSilence(build.vm, build.surroundings.drivers.connectAgent(build.config, { ...wait, first: build.vm.startedBy === "template" && build.config.clone === undefined }));
  build.undo.add("agent connection", () => connection.close());
  build.connection = connection;
}

/** Both calls at once: a call costs an emulated guest 50 ms, and the answer to the first does not change the second. */
async function greet(build: SandboxBuild, wait: WaitOptions): Promise<void> {
  const { connection: { guest }, config, vm } = build;
  const [hello, refreshed] = await orSilence(vm, Promise.all([
    guest.hello({ protocolVersion: guestProtocolVersion }, wait),
    config.pristine === true ? undefined : guest.refresh({ ...newIdentity(config), containerIds: vm.startedBy === "template" ? renamedContainers(config) : {} }, wait),
  ]));
  build.hello = hello;
  if (refreshed === undefined) return;
  build.clockSet = orSilence(vm, setClock(guest, refreshed.unixNanos, wait));
  build.clockSet.catch(() => { /* awaited here or by whoever starts a process */ });
  // What was saved while it lived runs already.
  if (config.clone !== undefined) await build.clockSet;
}

/**
 * The first call takes an emulated guest tenths of a second, during which the time it brought has gone on;
 * the same call takes less the second time.
 */
async function setClock(guest: AgentClient["guest"], guestNanos: bigint, wait: WaitOptions): Promise<void> {
  let told = guestNanos;
  for (let tries = 0; tries < maxClockTries && nowNanos() - told > clockToleranceNanos; tries++) told = (await guest.refresh({ unixNanos: nowNanos() }, wait)).unixNanos;
}

function nowNanos(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}

/** Meets the guest as the owner of a clone does, and leaves it as nobody's; the caller closes the connection. `containerIds`: containers' names to be. */
export async function rehearseMeeting(config: SandboxConfig, drivers: SandboxDrivers, containerIds: Record<string, string>, wait: WaitOptions): Promise<AgentClient> {
  const connection = await drivers.connectAgent(config, wait);
  try {
    const { guest } = connection;
    await Promise.all([guest.hello({ protocolVersion: guestProtocolVersion }, wait), guest.refresh({ ...newIdentity({ ...config, sandboxId: "" }), containerIds }, wait)]);
    await guest.refresh({ unixNanos: nowNanos() }, wait);
    return connection;
  } catch (error) {
    connection.close();
    throw error;
  }
}

/** Containers that wait in the template get the names of this sandbox's. */
function renamedContainers({ prepared, clone }: SandboxConfig): Record<string, string> {
  return clone?.containerIds ?? (prepared === undefined ? {} : { [prepared.preparedId]: prepared.containerId });
}

/** What a guest must not share with another: its name, its randomness, its time. */
function newIdentity({ sandboxId, hostname }: SandboxConfig): { sandboxId: string; hostname: string; machineId: string; entropy: Uint8Array; unixNanos: bigint } {
  return { sandboxId, hostname, machineId: kernelRandomBytes(16).toString("hex"), entropy: kernelRandomBytes(64), unixNanos: nowNanos() };
}
