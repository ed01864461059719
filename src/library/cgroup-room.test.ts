import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { cgroupRoomBytes } from "./cgroup-room.ts";

const cases: readonly (readonly [title: string, files: Readonly<Record<string, string>>, room: number])[] = [
  ["nothing is known", {}, Infinity],
  ["version 2: no limit", { "proc/self/cgroup": "0::/user/me\n", "sys/fs/cgroup/user/me/memory.max": "max\n", "sys/fs/cgroup/user/me/memory.current": "7\n" }, Infinity],
  ["version 2: its own limit, its cache counts as free", { "proc/self/cgroup": "0::/user/me\n", "sys/fs/cgroup/user/me/memory.max": "1000\n", "sys/fs/cgroup/user/me/memory.current": "700\n", "sys/fs/cgroup/user/me/memory.stat": "anon 1\ninactive_file 50\nactive_file 9\n" }, 350],
  ["version 2: a limit further up is less", { "proc/self/cgroup": "0::/user/me\n", "sys/fs/cgroup/user/me/memory.max": "1000\n", "sys/fs/cgroup/user/me/memory.current": "100\n", "sys/fs/cgroup/user/memory.max": "2000\n", "sys/fs/cgroup/user/memory.current": "1990\n" }, 10],
  ["version 2 in a container, whose own cgroup is the root it sees", { "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "500\n", "sys/fs/cgroup/memory.current": "600\n" }, 0],
  ["version 1, in a container that sees the host's path", { "proc/self/cgroup": "5:cpu:/docker/1\n4:memory:/docker/1\n0::/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "800\n", "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 100\n" }, 300],
  ["version 1, its own folder, beside another controller", { "proc/self/cgroup": "4:hugetlb,memory:/a:b\n", "sys/fs/cgroup/memory/a:b/memory.limit_in_bytes": "900\n", "sys/fs/cgroup/memory/a:b/memory.usage_in_bytes": "100\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "5000\n" }, 800],
];

for (const [title, files, room] of cases) {
  test(`cgroupRoomBytes(): ${title}`, () => {
    const root = mkdtempSync(join(tmpdir(), "cgroup-room-"));
    try {
      for (const [path, text] of Object.entries(files)) {
        mkdirSync(dirname(join(root, path)), { recursive: true });
        writeFileSync(join(root, path), text);
      }
      assert.equal(cgroupRoomBytes(root), room);
    } finally {
      rmSync(root, { recursive: true });
    }
  });
}
