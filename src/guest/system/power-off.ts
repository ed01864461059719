import { call, callAsync } from "../../shared/linux/libc.ts";
import { orAbandon } from "../../shared/base/deadline.ts";

/** LINUX_REBOOT_CMD_POWER_OFF. */
const RB_POWER_OFF = 0x4321fedc;
/** Writing back what is dirty; a disk that hangs must not keep the VM. */
const syncTimeoutMs = 10_000;

/** Writes back all file systems, for a limited time. */
export async function syncDisks(): Promise<void> {
  await orAbandon(callAsync("void sync()"), "sync", { timeoutMs: syncTimeoutMs });
}

/** Ends the VM at once. */
export function powerOffNow(): void {
  call("int reboot(int)", RB_POWER_OFF);
}
