import type { Command } from "commander";
import { formatImageName, parseImageName } from "../../host/storage/images/image-name.ts";
import { ImageStore } from "../../host/storage/images/image-store.ts";
import { foldersOf } from "../command.ts";

export function define(command: Command): void {
  command
    .argument("<image>", "name or id")
    .argument("<new-name>", "further name, e.g. mine:2")
    .addHelpText("after", "\nExample:\n  casemate tag busybox localhost/mine:1")
    .action(async (reference: string, name: string) => new ImageStore(foldersOf(command)).tag(reference, formatImageName(parseImageName(name))));
}
