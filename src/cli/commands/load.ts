import type { Command } from "commander";
import { formatImageName, parseImageName, shownName } from "../../host/storage/images/image-name.ts";
import { loadFromStream, loadImages } from "../../host/storage/images/save.ts";
import { foldersOf } from "../command.ts";
import { Progress } from "../format/progress.ts";

export function define(command: Command): void {
  command
    .option("-i, --input <file>", "archive that docker, podman or casemate has saved; default: standard input")
    .option("-q, --quiet", "show no progress")
    .addHelpText("after", "\nExamples:\n  casemate load -i images.tar\n  podman save busybox | casemate load")
    .action(async ({ input, quiet }: { readonly input?: string; readonly quiet?: boolean }) => {
      const folders = foldersOf(command);
      const progress = new Progress({ quiet: quiet ?? false });
      try {
        const options = { onProgress: progress.step, ...(quiet !== true && { onBlobs: progress.blobs }) };
        const names = input === undefined ? await loadFromStream(folders, process.stdin, options) : await loadImages(folders, input, options);
        progress.done();
        for (const name of names) process.stdout.write(`Loaded image: ${shownName(formatImageName(parseImageName(name)))}\n`);
      } finally {
        progress.done();
      }
    });
}
