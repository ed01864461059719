import assert from "node:assert/strict";
import { test } from "node:test";
import { savedMemoryName } from "../hypervisor/guest-memory.ts";
import { parseMemory } from "./host-usage.ts";

const rollup = "Rss:  900 kB\nPss:  300 kB\nShared_Clean:  500 kB\nPrivate_Clean:  20 kB\nPrivate_Dirty:  180 kB\nPrivate_Hugetlb:  0 kB\n";
const heap = "55f0-55ff rw-p 00000000 00:00 0    [heap]\nPrivate_Clean:  20 kB\nPrivate_Dirty:  30 kB\nAnonymous:  50 kB\n";
const saved = `7f00-7f40 rw-p 00000000 00:01 9    /memfd:${savedMemoryName} (deleted)\nPrivate_Clean:  0 kB\nPrivate_Dirty:  150 kB\nAnonymous:  60 kB\n`;

test("parseMemory() tells what is a process's own, which a saved VM's memory is not until it is written", () => {
  assert.deepEqual(parseMemory(rollup, heap + saved), { memoryBytes: 300n * 1024n, privateBytes: 110n * 1024n });
  assert.deepEqual(parseMemory(rollup, heap), { memoryBytes: 300n * 1024n, privateBytes: 200n * 1024n });
  assert.equal(parseMemory("", ""), undefined);
});
