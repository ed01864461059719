import { constants, openSync } from "node:fs";
import type { DiskSpec } from "../virtual-machine.ts";

/** Opens a disk's file. Non-blocking, so that a FIFO cannot hold us; files and block devices do not know the difference. */
export function openDisk(disk: Pick<DiskSpec, "path" | "readOnly">): number {
  return openSync(disk.path, (disk.readOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK);
}
