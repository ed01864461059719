import { existsSync, mkdirSync, readdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { descendants } from "../../scripts/test-runner/descendants.ts";
import { releaseHeld } from "../../src/host/control/lost-sandbox.ts";
import { stateFolders, type StateFolders } from "../../src/host/store/paths.ts";
import { releaseTemplateMemory } from "../../src/host/template/template-memory.ts";
import { readTemplate } from "../../src/host/template/template-store.ts";
import { terminateProcess } from "../../src/shared/linux/run-process.ts";

/**
 * Shows the machine's templates in a test's own data folder, but for those with a container, which whoever uses
 * the machine has run. What the test adds, such as a template with its container in it, stays there.
 */
export function shareTemplates(root: string): void {
  const folders = stateFolders(undefined);
  const shared = join(folders.data, "templates");
  const own = join(root, "templates");
  mkdirSync(own, { recursive: true, mode: 0o711 });
  const keys = namesIn(shared).filter((name) => /^[0-9a-f]{32}$/.test(name));
  for (const key of keys.filter((one) => readTemplate(folders, one)?.prepared === undefined)) symlinkSync(join(shared, key), join(own, key));
}

/** Ends what goes on for templates when the command that began it has gone: makers with their VMs, and holders of memory. */
export async function endTemplateWork(folders: StateFolders): Promise<void> {
  const requests = join(folders.run, "templates/");
  for (const maker of descendants().filter(({ command }) => command.includes(`/template.js ${requests}`))) await terminateProcess(maker, 0);
  for (const name of namesIn(join(folders.run, "sandboxes")).filter((one) => one.startsWith("template-"))) await releaseHeld(folders, name);
  await releaseTemplateMemory(folders);
}

function namesIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}
