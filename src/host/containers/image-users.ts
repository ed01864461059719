import { ContainerStore } from "../store/container-store.ts";
import type { StateFolders } from "../store/paths.ts";
import { listSnapshots } from "../template/snapshot-store.ts";
import { deleteTemplate } from "../template/template-memory.ts";
import { listTemplates, shownKeyLength } from "../template/template-store.ts";

/** Who needs an image to stay, by the digest of its manifest: `container NAME`, `snapshot NAME`, `template KEY`: one that was made with a container of it. */
export function imageUsers(folders: StateFolders): ReadonlyMap<string, readonly string[]> {
  const users = new Map<string, string[]>();
  const add = (imageDigest: string, user: string): void => { users.set(imageDigest, [...users.get(imageDigest) ?? [], user]); };
  for (const { imageDigest, name } of new ContainerStore(folders).list()) add(imageDigest, `container ${name}`);
  for (const { name, containers } of listSnapshots(folders)) for (const { record } of containers) add(record.imageDigest, `snapshot ${name}`);
  for (const { template: { key, prepared } } of listTemplates(folders)) if (prepared !== undefined) add(prepared.imageDigest, `template ${key.slice(0, shownKeyLength)}`);
  return users;
}

/** Removes the templates with a container of that image; without the image they would be of no use. */
export async function removeTemplatesOf(folders: StateFolders, imageDigest: string): Promise<void> {
  for (const { template: { key, prepared } } of listTemplates(folders)) if (prepared?.imageDigest === imageDigest) await deleteTemplate(folders, key);
}
