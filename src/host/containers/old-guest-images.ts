import { readdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import type { Logger } from "../../shared/base/log.ts";
import { pruneGuestImages } from "../guest-image/guest-image.ts";
import type { SandboxConfig } from "../sandbox/sandbox-config.ts";
import { sandboxPaths, type StateFolders } from "../store/paths.ts";
import { readStateFile } from "../store/state-file.ts";
import { listSnapshots } from "../template/snapshot-store.ts";
import { listTemplates } from "../template/template-store.ts";

/** Removes guest images that nobody has used for long. Where it cannot be told who uses one, all stay. */
export function removeOldGuestImages(folders: StateFolders, log: Logger): void {
  try {
    for (const guestImage of pruneGuestImages(folders, guestImagesInUse(folders))) log.info("guest image removed, it was not used for long", { guestImage });
  } catch (error) {
    if (!RuntimeError.is(error, "data_loss") && !RuntimeError.is(error, "failed_precondition")) throw error;
    log.warn("guest images are not looked through", { error: describeError(error) });
  }
}

/** Ids of the images that templates, snapshots and sandboxes were made of: a restore or a snapshot needs the files again. */
function guestImagesInUse(folders: StateFolders): Set<string> {
  const sandboxes = readdirSync(join(folders.run, "sandboxes")).filter((id) => !id.startsWith("."))
    .flatMap((id) => readStateFile(sandboxPaths(folders, id).state) as SandboxConfig | undefined ?? []); // written by start-owner.ts alone
  return new Set([
    ...listTemplates(folders).map(({ template }) => template.guestImageId),
    ...[...listSnapshots(folders), ...sandboxes].map(({ rootImagePath }) => basename(dirname(rootImagePath))),
  ]);
}
