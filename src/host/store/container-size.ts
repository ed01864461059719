import { statSync } from "node:fs";
import { isErrnoException } from "../../shared/base/errors.ts";
import type { ContainerRecord } from "./container-store.ts";
import { containerPaths, type StateFolders } from "./paths.ts";

const blockBytes = 512;

/** What a container takes of this machine's disk, in bytes. */
export interface ContainerSize {
  /** Its writable layer, with the file system's own metadata; 0 before its first start. */
  readonly layerBytes: number;
  /** Its image, which other containers may use too. */
  readonly imageBytes: number;
}

/** Looks at the files alone, so that it can be asked for a container that runs. */
export function readContainerSize(folders: StateFolders, record: ContainerRecord): ContainerSize {
  return {
    layerBytes: diskBytes(containerPaths(folders, record.containerId).disk),
    imageBytes: record.rootfs.reduce((sum, { path }) => sum + diskBytes(path), 0),
  };
}

/** Of a sparse file what is not a hole. */
function diskBytes(path: string): number {
  try {
    return statSync(path).blocks * blockBytes;
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return 0;
    throw error;
  }
}
