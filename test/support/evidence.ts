import { closeSync, existsSync, mkdirSync, openSync, readFileSync, readSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import type { StateFolders } from "../../src/host/store/paths.ts";

/** The end of a larger file is what tells; whole disks are not copied. */
const maxFileBytes = 4 * 1024 * 1024;
const wantedFiles = /\.(log|json|jsonl|txt)$|(^|\/)log[^/]*$/;

/**
 * Copies what tells how a test failed (guest console, owner log, QMP transcript, state files) to
 * test-output/<file>/<test>/ and prints which sandboxes there are. Returns the folder.
 */
export function keepEvidence(folders: StateFolders, testName: string): string {
  const output = process.env["CASEMATE_TEST_OUTPUT"] ?? join(import.meta.dirname, "../../test-output/by-hand");
  const target = join(output, testName.replaceAll(/[^\w.-]+/g, "-").slice(0, 80));
  for (const folder of [join(folders.run, "sandboxes"), join(folders.data, "containers")]) {
    for (const path of filesBelow(folder)) copyEnd(path, join(target, relative(dirname(folder), path)));
  }
  const sandboxes = namesIn(join(folders.run, "sandboxes"));
  console.log(`evidence of "${testName}" is in ${target}; sandboxes: ${sandboxes.length === 0 ? "none" : sandboxes.join(", ")}`);
  return target;
}

function filesBelow(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && wantedFiles.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
}

function copyEnd(from: string, to: string): void {
  mkdirSync(dirname(to), { recursive: true });
  const { size } = statSync(from);
  if (size <= maxFileBytes) {
    writeFileSync(to, readFileSync(from));
    return;
  }
  const bytes = Buffer.alloc(maxFileBytes);
  const fd = openSync(from, "r");
  try {
    readSync(fd, bytes, 0, maxFileBytes, size - maxFileBytes);
  } finally {
    closeSync(fd);
  }
  writeFileSync(to, bytes);
}

function namesIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}
