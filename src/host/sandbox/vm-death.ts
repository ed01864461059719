import { orAbandon } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { StepGuard } from "../../shared/base/steps.ts";
import type { VirtualMachine, VmExit } from "../hypervisor/virtual-machine.ts";

/** A lost connection and the end of the VM behind it are noticed within this time of each other. */
const deathNoticeMs = 1_000;

/**
 * Ends a wait with the VM: nobody in it can answer once it is gone. Its end takes every connection with
 * it, and may be noticed there first; that the VM ended, and the guest's last words, say more than that.
 */
export function raceDeath(vm: VirtualMachine): StepGuard {
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
