import { orAbandon } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { StepGuard } from "../../shared/base/steps.ts";
import type { VirtualMachine, VmExit } from "../hypervisor/virtual-machine.ts";
import type { SandboxShares } from "./drivers.ts";

/** A lost connection and the end of the VM behind it are noticed within this time of each other. */
const deathNoticeMs = 1_000;

/**
 * Ends a wait with the VM: nobody in it can answer once it is gone. Its end takes every connection with
 * it, and may be noticed there first; that the VM ended, and the guest's last words, say more than that.
 * A VM whose shares are lost counts as ended.
 */
export function raceDeath(vm: VirtualMachine, shares?: Pick<SandboxShares, "lost">): StepGuard {
  const death = Promise.withResolvers<never>();
  death.promise.catch(() => { /* only of interest while a step waits */ });
  // A race with a promise that lives as long as the VM would leave its result behind with every step.
  const waiting = new Set<(error: RuntimeError) => void>();
  let ended: RuntimeError | undefined;
  const end = (error: RuntimeError): void => {
    ended ??= error;
    death.reject(ended);
    for (const reject of waiting) reject(ended);
  };
  void vm.exited.then((exit) => end(vmDied(exit))); // never rejects
  if (shares !== undefined) void sharesLost(vm, shares).then(() => end(virtiofsdDied())); // never rejects
  return async (work) => {
    const died = Promise.withResolvers<never>();
    waiting.add(died.reject);
    if (ended !== undefined) died.reject(ended);
    try {
      return await Promise.race([work, died.promise]);
    } catch (error) {
      if (!RuntimeError.is(error, "unavailable")) throw error;
      return await orAbandon(death.promise, "the VM's end", { timeoutMs: deathNoticeMs }).catch((other: unknown) => { throw RuntimeError.is(other, "deadline_exceeded") ? error : other; });
    } finally {
      waiting.delete(died.reject);
    }
  };
}

/** Resolves when virtiofsd has ended under a VM that goes on: of a VM's own end it is the consequence. Never rejects. */
export async function sharesLost(vm: VirtualMachine, shares: Pick<SandboxShares, "lost">): Promise<void> {
  await shares.lost;
  const vmEnded = await orAbandon(vm.exited, "the VM's end", { timeoutMs: deathNoticeMs / 2 }).catch(() => undefined);
  if (vmEnded !== undefined) await new Promise<never>(() => { /* then the VM's end is the news */ });
}

function virtiofsdDied(): RuntimeError {
  return new RuntimeError("unavailable", "virtiofsd has ended, and with it the sandbox that used its folders", { reason: "virtiofsd_died", hint: "`dmesg` says whether the host ran out of memory" });
}

/** Why a process ended that its VM took with it (docs/errors.md). */
export const endReasons: Readonly<Record<VmExit["reason"], string>> = { died: "vmm_died", panicked: "guest_panicked", reset: "guest_reset", powered_off: "guest_powered_off" };

/** The error of whatever waited for a VM that ended. */
export function vmDied({ process, reason, consoleTail }: VmExit): RuntimeError {
  const ends = { died: `died (${process.signal ?? `exit code ${process.exitCode ?? "unknown"}`})`, panicked: "panicked", powered_off: "powered off", reset: "was reset: its kernel crashed without a word, or it was told to reboot" };
  return new RuntimeError("unavailable", `the VM ${ends[reason]}${lastWords(consoleTail)}`, { reason: "vmm_died", hint: "`casemate check` says what this machine lacks, `dmesg` whether it ran out of memory" });
}

/** Waits for the agent of a VM that runs. One that says nothing is told with the end of the guest's console, which is all that is known of it. */
export async function orSilence<T>(vm: VirtualMachine, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (!RuntimeError.is(error, "deadline_exceeded")) throw error;
    throw new RuntimeError("deadline_exceeded", `the guest's agent did not answer in time${lastWords(vm.consoleTail)}`, { reason: "agent_silent", hint: "give it more time with --start-timeout, or see what `casemate check` says" });
  }
}

function lastWords(consoleTail: string): string {
  const tail = consoleTail.trim();
  return tail === "" ? "" : `; end of its console:\n${tail}`;
}
