import { spawnSync } from "node:child_process";
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";

/** What the disk could hold when the power goes; read it before the next one is made. */
export type PowerCut = { readonly folder: string; readonly at: string };

/**
 * Does some work and returns what could be left of a folder if the power went at each of its steps, which are the
 * calls of fsync and rename: once with all that was written, and once with nothing in the files that were not
 * synchronized since they were written last. The caller removes the folders.
 */
export async function cutPower(folder: string, work: () => Promise<unknown>): Promise<PowerCut[]> {
  const { fsyncSync, renameSync } = fs;
  const cuts: PowerCut[] = [];
  const onDisk = new Set<string>();
  const cut = (at: string): void => {
    for (const all of [true, false]) {
      const copy = fs.mkdtempSync(join(tmpdir(), "casemate-cut-"));
      const { status, stderr } = spawnSync("cp", ["-a", "--sparse=always", "--", `${folder}/.`, copy], { encoding: "utf8" });
      if (status !== 0) throw new Error(`copy "${folder}": ${stderr}`);
      cuts.push({ folder: copy, at: `${at}${all ? "" : ", what was not synchronized is lost"}` });
      if (all) continue;
      for (const path of filesBelow(folder)) if (!onDisk.has(stateOf(fs.statSync(path)))) fs.truncateSync(join(copy, relative(folder, path)));
    }
  };
  for (const path of filesBelow(folder)) onDisk.add(stateOf(fs.statSync(path)));
  fs.fsyncSync = (fd) => {
    const path = fs.readlinkSync(`/proc/self/fd/${fd}`);
    const ours = path.startsWith(`${folder}/`);
    if (ours) cut(`before fsync of ${relative(folder, path)}`);
    fsyncSync(fd);
    onDisk.add(stateOf(fs.fstatSync(fd)));
    if (ours) cut(`after fsync of ${relative(folder, path)}`);
  };
  fs.renameSync = (from, to) => {
    renameSync(from, to);
    if (String(to).startsWith(`${folder}/`)) cut(`after rename to ${relative(folder, String(to))}`);
  };
  syncBuiltinESMExports();
  try {
    await work();
    cut("at the end");
  } finally {
    Object.assign(fs, { fsyncSync, renameSync });
    syncBuiltinESMExports();
  }
  return cuts;
}

/** A file as it was written last. */
function stateOf({ ino, size, mtimeMs }: fs.Stats): string {
  return `${ino} ${size} ${mtimeMs}`;
}

function filesBelow(folder: string): string[] {
  return fs.readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}
