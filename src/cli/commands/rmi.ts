import type { Command } from "commander";
import { shownName } from "../../host/storage/images/image-name.ts";
import { ImageStore } from "../../host/storage/images/image-store.ts";
import { imageUsers } from "../../host/containers/image-users.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { forEach } from "./each.ts";

export function define(command: Command): void {
  command
    .argument("<image...>", "names or ids")
    .option("-f, --force", "also when a container or a snapshot uses it")
    .addHelpText("after", "\nExample:\n  casemate rmi alpine:3")
    .action(async (references: readonly string[], flags: { readonly force?: boolean }) => {
      const folders = foldersOf(command);
      const images = new ImageStore(folders);
      const usedBy = (manifestDigest: string): readonly string[] => imageUsers(folders).get(manifestDigest) ?? [];
      await forEach(references, globalOptions(command).debug ?? false, async (reference) => {
        const { untagged, deleted } = await images.remove(reference, { force: flags.force ?? false, usedBy });
        for (const name of untagged) process.stdout.write(`Untagged: ${shownName(name)}\n`);
        if (deleted !== undefined) process.stdout.write(`Deleted: ${deleted}\n`);
      });
    });
}
