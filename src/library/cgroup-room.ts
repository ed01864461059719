import { dirname, join } from "node:path";
import { readOptional } from "../shared/linux/read-optional.ts";

/** Where one of the two kinds of cgroups keeps what: cgroup-v1/memory.rst and cgroup-v2.rst of the kernel's documentation. */
interface MemoryFiles {
  readonly folders: readonly string[];
  readonly limit: string;
  readonly usage: string;
  /** Of memory.stat: page cache that is given back before anybody has to end. */
  readonly reclaimable: string;
}

const version1: MemoryFiles = { folders: ["sys/fs/cgroup/memory"], limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", reclaimable: "total_inactive_file" };
const version2: MemoryFiles = { folders: ["sys/fs/cgroup", "sys/fs/cgroup/unified"], limit: "memory.max", usage: "memory.current", reclaimable: "inactive_file" };

/** Memory that the cgroups this program is in still allow; Infinity without a limit. `root`: the folder that /proc and /sys are in. */
export function cgroupRoomBytes(root = "/"): number {
  const lines = readOptional(join(root, "proc/self/cgroup")).split("\n").map((line) => line.split(":"));
  // Both may be there at once, with the memory controller in one of them.
  return Math.min(...lines.flatMap(([number, controllers = "", ...path]) => {
    const files = number === "0" ? version2 : controllers.split(",").includes("memory") ? version1 : undefined;
    return files === undefined ? [] : files.folders.map((folder) => roomBelow(join(root, folder), path.join(":"), files));
  }), Infinity);
}

/** The least room of a cgroup and all above it. Inside a container the path may be the host's, of which only the root is seen here. */
function roomBelow(mount: string, path: string, files: MemoryFiles): number {
  const room = roomOf(join(mount, path), files);
  return path === "/" || path === "" || path === "." ? room : Math.min(room, roomBelow(mount, dirname(path), files));
}

function roomOf(folder: string, { limit, usage, reclaimable }: MemoryFiles): number {
  const limitBytes = Number(readOptional(join(folder, limit)));
  // "max", no file, or version 1's word for none, a number larger than any machine.
  if (!(limitBytes > 0)) return Infinity;
  const cacheBytes = Number(new RegExp(`^${reclaimable} (\\d+)$`, "m").exec(readOptional(join(folder, "memory.stat")))?.[1] ?? 0);
  return Math.max(0, limitBytes - Number(readOptional(join(folder, usage))) + cacheBytes);
}
