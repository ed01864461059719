import { rmSync } from "node:fs";
import { ContainerStore, type ContainerRecord } from "../../store/container-store.ts";
import type { StateFolders } from "../../store/paths.ts";
import { volumeFolder } from "./parse-volume.ts";

/** As parseVolume() names what was given no name. */
const anonymousName = /^[0-9a-f]{64}$/;

/** Removes the volumes without a name of a container that is gone, unless another container has them. */
export function removeAnonymousVolumes(folders: StateFolders, { volumes }: Pick<ContainerRecord, "volumes">): void {
  const used = new Set(new ContainerStore(folders).list().flatMap((record) => record.volumes.map(({ name }) => name)));
  for (const { name } of volumes.filter((volume) => anonymousName.test(volume.name) && !used.has(volume.name))) rmSync(volumeFolder(folders, name), { recursive: true, force: true });
}
