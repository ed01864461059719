import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { RuntimeError } from "../../shared/base/errors.ts";
import { stateFolders } from "./paths.ts";
import { PodStore, type PodRecord } from "./pod-store.ts";

const pod = (name: string, createdAtUnixMs = 1): PodRecord => ({ version: 1, name, sandboxId: `s-${name}`, createdAtUnixMs, network: "user", ports: [], sharePid: false, ending: "last" });

test("PodStore keeps each name once, lists by age, and forgets", (t) => {
  const root = mkdtempSync(join(tmpdir(), "casemate-pods-"));
  t.after(() => rmSync(root, { recursive: true }));
  const store = new PodStore(stateFolders(root));
  assert.deepEqual(store.list(), []);
  store.create(pod("b", 2));
  store.create(pod("a", 3));
  assert.throws(() => store.create({ ...pod("a"), sandboxId: "other" }), (error) => RuntimeError.is(error, "already_exists") && error.reason === "name_taken");
  assert.deepEqual([store.find("a"), store.list().map(({ name }) => name)], [pod("a", 3), ["b", "a"]]);
  for (const name of ["", "../x", "-a", "x".repeat(64)]) assert.throws(() => store.create(pod(name)), (error) => RuntimeError.is(error, "invalid_argument"), name);
  for (const name of ["c", "../a"]) assert.throws(() => store.find(name), (error) => RuntimeError.is(error, "not_found") && error.reason === "pod_not_found");
  store.remove("a");
  store.remove("a");
  assert.deepEqual([store.list().map(({ name }) => name), readdirSync(join(root, "pods"))], [["b"], ["b.json"]]);
});
