import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

const sources = join(import.meta.dirname, "..");
/** Generators in Node's own memory, which every clone of a guest would share. */
const cloned = /\bMath\.random\b|\brandom(?:UUID|Bytes|Int|Fill|FillSync)\(|\bgetRandomValues\b|\bwebcrypto\b/;

test("what runs in the guest draws random numbers from the kernel alone", () => {
  const files = ["guest", "shared"].flatMap((folder) => readdirSync(join(sources, folder), { recursive: true, encoding: "utf8" }).map((path) => join(folder, path)))
    .filter((path) => path.endsWith(".ts") && !path.endsWith(".test.ts"));
  assert.ok(files.includes("shared/linux/random.ts") && files.includes("guest/main.ts"));
  assert.deepEqual(files.filter((path) => cloned.test(readFileSync(join(sources, path), "utf8"))), []);
});
