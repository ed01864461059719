import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { eventually } from "../../shared/base/deadline.ts";
import { isErrnoException } from "../../shared/base/errors.ts";
import { resizeMemoryMounts } from "../init/mounts.ts";

/** A plugged vCPU is seen after 0.7 s under emulation. */
const cpuTimeoutMs = 10_000;
const cpuFolder = "/sys/devices/system/cpu", memoryFolder = "/sys/devices/system/memory";

/** Brings vCPUs online until that many are; waits for those that are still on their way. */
export async function onlineCpus(count: number): Promise<void> {
  await eventually(`bring ${count} vCPUs online`, () => {
    for (const cpu of readdirSync(cpuFolder).filter((name) => /^cpu\d+$/.test(name))) {
      if (countOnline() < count) writeOnline(`${cpuFolder}/${cpu}/online`, "1");
    }
    return countOnline() >= count ? true : undefined;
  }, { timeoutMs: cpuTimeoutMs, intervalMs: 20 });
}

/** Brings plugged memory online that the kernel has not by itself. */
export function onlineMemory(): void {
  for (const block of readdirSync(memoryFolder).filter((name) => /^memory\d+$/.test(name))) {
    const file = `${memoryFolder}/${block}/state`;
    if (readFileSync(file, "latin1").trim() === "offline") writeOnline(file, "online");
  }
  resizeMemoryMounts();
}

/** Plugged memory goes online as it comes. */
export function autoOnlineMemory(): void {
  writeOnline(`${memoryFolder}/auto_online_blocks`, "online");
}

/** Bytes in one block of pluggable memory; 0 when the kernel has no such blocks. */
export function memoryBlockBytes(): bigint {
  try {
    return BigInt(`0x${readFileSync(`${memoryFolder}/block_size_bytes`, "latin1").trim()}`);
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return 0n;
    throw error;
  }
}

/** Number of CPUs in a list as the kernel writes it: `0-2,5`. */
export function countCpuList(list: string): number {
  return list.trim().split(",").filter((part) => part !== "").reduce((sum, part) => {
    const [first = "0", last = first] = part.split("-");
    return sum + Number(last) - Number(first) + 1;
  }, 0);
}

function countOnline(): number {
  return countCpuList(readFileSync(`${cpuFolder}/online`, "latin1"));
}

/** The first CPU has no such file, and a CPU or block may go while we look. */
function writeOnline(file: string, value: string): void {
  try {
    if (readFileSync(file, "latin1").trim() !== value) writeFileSync(file, value);
  } catch (error) {
    if (!isErrnoException(error, "ENOENT") && !isErrnoException(error, "EBUSY") && !isErrnoException(error, "EINVAL")) throw error;
  }
}
