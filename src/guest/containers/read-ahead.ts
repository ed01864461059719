import { posix } from "node:path";
import type { OciProcess } from "../../shared/oci/runtime-spec.ts";
import { RootFolder } from "../linux/resolve-beneath.ts";

/** The rest of a larger program is read as it runs. */
const maxProgramBytes = 32 * 1024 * 1024;
/** A script's interpreter, that one's loader, and one more. */
const maxPrograms = 4;

/**
 * Reads the program that a process will run, and what interprets it, into the page cache of a guest that
 * is about to be saved. Its libraries are not among it. Of a program that is not there only the start has to tell.
 */
export function readAhead(rootPath: string, { args: [name = ""], cwd, env = [] }: OciProcess): void {
  using root = RootFolder.open(rootPath);
  const path = env.find((entry) => entry.startsWith("PATH="))?.slice("PATH=".length) ?? "";
  let candidates = name.includes("/") ? [posix.resolve(cwd, name)] : path.split(":").map((folder) => posix.join(folder, name));
  for (let programs = 0; programs < maxPrograms && candidates.length > 0; programs++) {
    const head = candidates.reduce<Buffer | undefined>((found, candidate) => found ?? root.readThrough(candidate, maxProgramBytes), undefined);
    const interpreter = head === undefined ? undefined : interpreterOf(head);
    candidates = interpreter === undefined ? [] : [interpreter];
  }
}

const PT_INTERP = 3;

/** Who the kernel starts instead of a file that begins so: a script's `#!` or the loader of a 64-bit ELF program (elf(5)). Undefined: nobody, or nobody who is named this early. */
export function interpreterOf(head: Buffer): string | undefined {
  if (head.toString("latin1", 0, 2) === "#!") return /^#![ \t]*([^ \t\n]+)/.exec(head.toString("latin1"))?.[1];
  if (head.length < 64 || head.readUInt32BE(0) !== 0x7f454c46) return undefined;
  const table = Number(head.readBigUInt64LE(32)), size = head.readUInt16LE(54), count = head.readUInt16LE(56);
  for (let at = table; at < table + size * count && at + size <= head.length; at += size) {
    if (head.readUInt32LE(at) !== PT_INTERP) continue;
    const start = Number(head.readBigUInt64LE(at + 8)), end = head.indexOf(0, start);
    return end === -1 ? undefined : head.toString("latin1", start, end);
  }
  return undefined;
}
