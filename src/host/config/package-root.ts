import { existsSync, readFileSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { RuntimeError } from "../../shared/base/errors.ts";

/** The package's own folder, from a source file or from a bundle in dist. */
export function packageRoot(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); folder !== dirname(folder); folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json"))) return folder;
  }
  throw new RuntimeError("internal", "the package's folder cannot be found");
}

/** The Node that came with this package: for owners and for the guest, whatever Node the library's user runs. */
export function packageNode(): string {
  try {
    return createRequire(join(packageRoot(), "package.json")).resolve(`node-linux-${process.arch}/bin/node`);
  } catch {
    return realpathSync(process.execPath); // not installed as our dependency: the one that runs us will do
  }
}

/** The package's version. */
export function packageVersion(): string {
  const { version } = JSON.parse(readFileSync(join(packageRoot(), "package.json"), "utf8")) as { readonly version: string }; // our own file
  return version;
}
