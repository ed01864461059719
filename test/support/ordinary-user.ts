import { packageRoot } from "../../src/host/config/package-root.ts";
import { runProcess, type RunOptions, type RunResult } from "../../src/shared/linux/run-process.ts";

/** The user nobody and its group. */
export const nobody = 65534;

/** Where the checkout is shown to it. */
const shownAt = "/mnt";
const script = `mount --bind "$1" ${shownAt} && shift && exec setpriv --reuid=${nobody} --regid=${nobody} --clear-groups --inh-caps=-all "$@"`;

/**
 * Runs a program as nobody. The checkout may lie where only root may look, in root's home for one: so it
 * is shown at another place, in a mount namespace of the program's own, and named so in its arguments.
 */
export async function runAsNobody(file: string, args: readonly string[], options: RunOptions): Promise<RunResult> {
  const shown = [file, ...args].map((text) => text.replaceAll(packageRoot(), shownAt));
  return runProcess("unshare", ["--mount", "sh", "-c", script, "sh", packageRoot(), ...shown], { cwd: "/", ...options });
}
