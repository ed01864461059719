import { rmSync } from "node:fs";
import type { ContainerRecord, ContainerStore } from "./container-store.ts";
import { volumeFolder } from "./paths.ts";

/** As parseVolume() names what was given no name. */
const anonymousName = /^[0-9a-f]{64}$/;

/** Removes the volumes without a name of a container that is gone or about to go, unless another container has them. */
export function removeAnonymousVolumes(store: ContainerStore, { containerId, volumes }: Pick<ContainerRecord, "containerId" | "volumes">): void {
  const anonymous = volumes.map(({ name }) => name).filter((name) => anonymousName.test(name));
  if (anonymous.length === 0) return;
  const used = new Set(store.list().filter((other) => other.containerId !== containerId).flatMap((other) => other.volumes.map(({ name }) => name)));
  for (const name of anonymous) if (!used.has(name)) rmSync(volumeFolder(store.folders, name), { recursive: true, force: true });
}

/** What `--rm` does at a container's end. The volumes first: whoever dies in between leaves a record that says what is to go. */
export function removeWithVolumes(store: ContainerStore, record: ContainerRecord): void {
  removeAnonymousVolumes(store, record);
  store.remove(record);
}
