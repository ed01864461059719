import { readFileSync } from "node:fs";

/** Id of the host's present boot; what was running under another one is gone. */
export function readBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}
