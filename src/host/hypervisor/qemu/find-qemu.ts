import { existsSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { qemuProgram } from "./arguments.ts";

/** Path of QEMU. @throws RuntimeError `not_found` (reason `tool_missing`). */
export function findQemu(path = process.env["PATH"] ?? "/usr/bin"): string {
  for (const folder of path.split(":")) {
    const program = join(folder, qemuProgram);
    if (folder !== "" && existsSync(program)) return realpathSync(program);
  }
  throw new RuntimeError("not_found", `${qemuProgram} is not installed`, { reason: "tool_missing", hint: "apt-get install --no-install-recommends qemu-system-x86 qemu-system-common" });
}
