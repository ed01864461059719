import type { Command } from "commander";
import { createReadStream, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { RuntimeError } from "../../shared/base/errors.ts";
import { saveImages } from "../../host/storage/images/save.ts";
import { foldersOf } from "../command.ts";

export function define(command: Command): void {
  command
    .argument("<image...>", "names or ids")
    .option("-o, --output <file>", "the archive; default: standard output")
    .addHelpText("after", "\nExamples:\n  casemate save -o mine.tar localhost/mine && docker load -i mine.tar\n  casemate save one two | gzip >both.tar.gz")
    .action(async (references: readonly string[], { output }: { readonly output?: string }) => {
      const folders = foldersOf(command);
      if (output !== undefined) return saveImages(folders, references, output);
      if (process.stdout.isTTY) throw new RuntimeError("failed_precondition", "an archive would be written to the terminal", { reason: "output_is_terminal", hint: "name a file with -o, or redirect the output" });
      const folder = mkdtempSync(join(tmpdir(), "casemate-save-"));
      try {
        const archive = join(folder, "image.tar");
        await saveImages(folders, references, archive);
        await pipeline(createReadStream(archive), process.stdout, { end: false });
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
}
