import { Option, type Command } from "commander";
import { pullImage } from "../../host/storage/images/pull.ts";
import { ImageStore } from "../../host/storage/images/image-store.ts";
import { foldersOf } from "../command.ts";
import { Progress } from "../format/progress.ts";
import { StartAbort } from "../launch.ts";
import { requirePlatform } from "./run-options.ts";

export function define(command: Command): void {
  command
    .argument("<image>", "name in a registry, or docker://, oci:, oci-archive:, docker-archive:, containers-storage:, docker-daemon:")
    .option("--platform <platform>", "only this machine's can run, e.g. linux/amd64")
    .option("-q, --quiet", "print the image's id alone")
    .addOption(new Option("--tls-verify <yes>", "false: also from a registry without a certificate that this machine trusts, or without any").choices(["true", "false"]).default("true"))
    .addHelpText("after", "\nExamples:\n  casemate pull alpine:3\n  casemate pull containers-storage:localhost/mine:latest   an image podman has built\n  casemate pull docker-archive:mine.tar                    one that docker has saved")
    .action(async (reference: string, flags: { readonly quiet?: boolean; readonly platform?: string; readonly tlsVerify: string }) => {
      requirePlatform(flags.platform);
      const folders = foldersOf(command);
      const progress = new Progress({ quiet: flags.quiet ?? false });
      const abort = new StartAbort();
      try {
        const image = await pullImage(folders, reference, { onProgress: progress.step, ...(flags.quiet !== true && { onBlobs: progress.blobs }), signal: abort.signal, tlsVerify: flags.tlsVerify !== "false" });
        // Made now, so that the first run need not wait for it; a damaged image is found here too.
        await new ImageStore(folders).open(image, progress.step);
        progress.done();
        process.stdout.write(flags.quiet === true ? `${image.id}\n` : `${image.names.at(-1) ?? image.id}\n`);
      } finally {
        progress.done();
        abort.dispose();
      }
    });
}
