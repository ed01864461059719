import type { Command } from "commander";
import { canRun, checkHost, type HostCheck } from "../../host/containers/check-host.ts";
import { ensureGuestImage, type GuestImage } from "../../host/guest-image/guest-image.ts";
import { foldersOf } from "../command.ts";
import { exitWith } from "../exit.ts";
import { Progress } from "../format/progress.ts";
import { formatSize } from "../format/size.ts";

export function define(command: Command): void {
  command
    .option("--json", "print JSON")
    .option("--guest", "print what is in the guest image, and how large it is")
    .addHelpText("after", "\nEnds with 1 if nothing can run here.")
    .action(async (flags: { readonly json?: boolean; readonly guest?: boolean }) => {
      const folders = foldersOf(command);
      const progress = new Progress({ quiet: flags.json ?? false });
      if (flags.guest === true) {
        const image = await ensureGuestImage(folders, { onProgress: progress.step });
        progress.done();
        process.stdout.write(flags.json === true ? `${JSON.stringify(image, undefined, 2)}\n` : formatGuest(image));
        return;
      }
      const checks = await checkHost(folders, progress.step);
      progress.done();
      process.stdout.write(flags.json === true ? `${JSON.stringify({ canRun: canRun(checks), checks }, undefined, 2)}\n` : formatChecks(checks));
      await exitWith(canRun(checks) ? 0 : 1);
    });
}

function formatChecks(checks: readonly HostCheck[]): string {
  const lines = checks.map(({ name, state, code, detail, fix }) => `${state.padEnd(8)}  ${name.padEnd(18)}  ${detail}${state === "ok" ? "" : ` [${code}]`}\n${fix === "" ? "" : `${" ".repeat(30)}-> ${fix}\n`}`);
  return `${lines.join("")}\n${canRun(checks) ? "Containers can run here." : "No container can run here until what is missing is there."}\n`;
}

function formatGuest(image: GuestImage): string {
  const files = [...image.contents].sort((a, b) => b.bytes - a.bytes);
  return [
    `guest image ${image.id}, Linux ${image.kernelRelease}`,
    `${formatSize(image.sizes.kernelBytes).padStart(8)}  ${image.kernelPath}`,
    `${formatSize(image.sizes.initramfsBytes).padStart(8)}  ${image.initramfsPath}`,
    `${formatSize(image.sizes.rootImageBytes).padStart(8)}  ${image.rootImagePath}, in which:`,
    ...files.map(({ path, bytes }) => `${formatSize(bytes).padStart(8)}    ${path}`),
    "",
  ].join("\n");
}
