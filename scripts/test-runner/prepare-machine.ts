import { join } from "node:path";
import { stateFolders } from "../../src/host/store/paths.ts";
import { releaseTemplateMemory } from "../../src/host/template/template-memory.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";

/** It may have to fetch a kernel of 70 MB first. */
const timeoutMs = 15 * 60_000;

/** Makes the guest image, which every VM boots, and the template, which most start from, so that no test has to. Returns what was said on the way. @throws Error when there is no template: every test would boot cold. */
export async function prepareMachine(root: string): Promise<string> {
  const { stdout } = await runProcess(process.execPath, [join(root, "scripts/prepare.ts")], { timeoutMs });
  if (!/^template [0-9a-f]+$/m.test(stdout.toString())) throw new Error(`no template was made: ${stdout.toString().trim()}`);
  // Its holder would come and go in the listings of the host.
  await releaseTemplateMemory(stateFolders(undefined));
  return stdout.toString();
}
