import { ContainerStore } from "../store/container-store.ts";
import type { StateFolders } from "../store/paths.ts";
import { listSnapshots } from "../template/snapshot-store.ts";

/** Who needs an image to stay, by the digest of its manifest: `container NAME`, `snapshot NAME`. */
export function imageUsers(folders: StateFolders): ReadonlyMap<string, readonly string[]> {
  const users = new Map<string, string[]>();
  const add = (imageDigest: string, user: string): void => { users.set(imageDigest, [...users.get(imageDigest) ?? [], user]); };
  for (const { imageDigest, name } of new ContainerStore(folders).list()) add(imageDigest, `container ${name}`);
  for (const { name, containers } of listSnapshots(folders)) for (const { record } of containers) add(record.imageDigest, `snapshot ${name}`);
  return users;
}
