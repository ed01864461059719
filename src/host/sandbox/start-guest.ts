import { randomBytes } from "node:crypto";
import { orAbandon, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import { withUndo, type UndoStack } from "../../shared/base/undo.ts";
import type { HelloResponse } from "../../shared/protocol/gen/casemate_pb.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import type { VirtualMachine, VmExit } from "../hypervisor/virtual-machine.ts";
import type { SandboxUser } from "../store/sandbox-user.ts";
import type { SandboxConfig } from "./sandbox-config.ts";
import type { SandboxContext } from "./sandbox.ts";
import type { Steps } from "./steps.ts";

/** Version of casemate.v1.Guest that this host speaks (docs/compatibility.md). */
const guestProtocolVersion = 1;
/** A restored guest answers within 0.1 s under emulation; one that takes this long hangs. */
const restoreTimeoutMs = 10_000;
/** A lost connection and the end of the VM behind it are noticed within this time of each other. */
const deathNoticeMs = 1_000;

/** A guest that runs, answers, and is nobody's clone. */
export interface StartedGuest {
  readonly vm: VirtualMachine;
  readonly connection: AgentClient;
  readonly hello: HelloResponse;
}

/**
 * Starts the VM from the template that the config names, else cold. A template that cannot be used
 * costs the time of a cold boot, not the sandbox.
 */
export async function startGuest(config: SandboxConfig, user: SandboxUser | undefined, context: SandboxContext, undo: UndoStack, steps: Steps): Promise<StartedGuest> {
  const { drivers, ledger } = context;
  if (config.template !== undefined) {
    try {
      return await withUndo(async (inner) => {
        const wait = (): WaitOptions => ({ ...steps.wait, timeoutMs: Math.min(restoreTimeoutMs, steps.deadline.remainingMs) });
        const vm = await steps.run("restore VM", () => drivers.restoreVm(config, user, ledger, inner, wait()));
        const guest = await meetGuest(vm, config, context, inner, steps, wait);
        undo.adopt(inner);
        return guest;
      });
    } catch (error) {
      if (steps.signal?.aborted === true || steps.deadline.expired) throw error;
      context.log.warn("template not used, booting cold", { template: config.template, error: describeError(error) });
    }
  }
  const vm = await steps.run("boot VM", () => drivers.bootVm(config, user, ledger, undo, steps.wait, context.memoryFd));
  return meetGuest(vm, config, context, undo, steps, () => steps.wait);
}

/** Connects to the agent, and gives the guest what it must not share with others that began as the same bytes: before anything of the user's runs. */
async function meetGuest(vm: VirtualMachine, config: SandboxConfig, { drivers }: SandboxContext, undo: UndoStack, steps: Steps, wait: () => WaitOptions): Promise<StartedGuest> {
  const orDeath = raceDeath(vm);
  const connection = await steps.run("connect to the agent", () => orDeath(drivers.connectAgent(config, wait())));
  undo.add("agent connection", () => connection.close());
  const hello = await steps.run("greet the agent", () => orDeath(connection.guest.hello({ protocolVersion: guestProtocolVersion }, wait())));
  if (config.pristine === true) return { vm, connection, hello };
  await steps.run("refresh the guest", () => orDeath(connection.guest.refresh({
    sandboxId: config.sandboxId,
    hostname: config.hostname,
    machineId: randomBytes(16).toString("hex"),
    entropy: randomBytes(64),
    unixNanos: BigInt(Date.now()) * 1_000_000n,
  }, wait())));
  return { vm, connection, hello };
}

/**
 * Ends a wait with the VM: nobody in it can answer once it is gone. Its end takes every connection with
 * it, and may be noticed there first; that the VM ended, and the guest's last words, say more than that.
 */
export function raceDeath(vm: VirtualMachine): <T>(work: Promise<T>) => Promise<T> {
  const died = vm.exited.then((exit): never => { throw vmDied(exit); });
  died.catch(() => { /* only of interest while a step races it */ });
  return async (work) => {
    try {
      return await Promise.race([work, died]);
    } catch (error) {
      if (!RuntimeError.is(error, "unavailable")) throw error;
      return await orAbandon(died, "the VM's end", { timeoutMs: deathNoticeMs }).catch((other: unknown) => { throw RuntimeError.is(other, "deadline_exceeded") ? error : other; });
    }
  };
}

/** The error of whatever waited for a VM that ended. */
function vmDied(exit: VmExit): RuntimeError {
  const how = exit.process.signal ?? `exit code ${exit.process.exitCode ?? "unknown"}`;
  const tail = exit.consoleTail.trim();
  return new RuntimeError("unavailable", `the VM ${exit.reason === "died" ? `died (${how})` : exit.reason.replace("_", " ")}${tail === "" ? "" : `; end of its console:\n${tail}`}`, { reason: "vmm_died", hint: "see the guest's console above and vmm.log in the sandbox's folder" });
}
