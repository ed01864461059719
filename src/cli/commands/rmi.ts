import type { Command } from "commander";
import { shownName } from "../../host/storage/images/image-name.ts";
import { ImageStore } from "../../host/storage/images/image-store.ts";
import { imageUsers, removeTemplatesOf } from "../../host/containers/image-users.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { forEach } from "./each.ts";

export function define(command: Command): void {
  command
    .argument("<image...>", "names or ids")
    .option("-f, --force", "also when a container, a snapshot or a template uses it; the template goes with it")
    .addHelpText("after", "\nExample:\n  casemate rmi alpine:3")
    .action(async (references: readonly string[], flags: { readonly force?: boolean }) => {
      const folders = foldersOf(command);
      const images = new ImageStore(folders);
      const usedBy = (manifestDigest: string): readonly string[] => imageUsers(folders).get(manifestDigest) ?? [];
      await forEach(references, globalOptions(command).debug ?? false, async (reference) => {
        const manifestDigest = images.find(reference)?.manifestDigest;
        const { untagged, deleted } = await images.remove(reference, { force: flags.force ?? false, usedBy });
        for (const name of untagged) process.stdout.write(`Untagged: ${shownName(name)}\n`);
        if (deleted !== undefined && manifestDigest !== undefined) await removeTemplatesOf(folders, manifestDigest);
        if (deleted !== undefined) process.stdout.write(`Deleted: ${deleted}\n`);
      });
    });
}
