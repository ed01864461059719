import assert from "node:assert/strict";
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { EventFile, EventReader, eventFolder } from "./event-file.ts";
import { sandboxPaths, stateFolders, type StateFolders } from "./paths.ts";

function temporaryFolders(): { folders: StateFolders } & Disposable {
  const root = mkdtempSync(join(tmpdir(), "casemate-events-"));
  return { folders: stateFolders(root), [Symbol.dispose]: () => rmSync(root, { recursive: true, force: true }) };
}

const event = (action: string, unixNanos: number, containerId = "c1") => ({ unixNanos: String(unixNanos), action, containerId, execId: "", attributes: {} });

test("events of all sandboxes are read in their order, each once", () => {
  using state = temporaryFolders();
  const reader = new EventReader(state.folders);
  const [a, b] = [EventFile.open(state.folders, "a"), EventFile.open(state.folders, "b")];
  a.append(event("create", 1));
  b.append(event("create", 3, "c2"));
  a.append(event("start", 2));
  assert.deepEqual(reader.read().map(({ action, sandboxId }) => `${action} ${sandboxId}`), ["create a", "start a", "create b"]);
  assert.deepEqual(reader.read(), []);
  a.append(event("die", 4));
  assert.deepEqual(reader.read().map(({ action }) => action), ["die"]);
  assert.ok(a.has(({ action }) => action === "start") && !a.has(({ action }) => action === "pause"));
});

test("a line that is being written is read when it is whole; one that never will be is passed over", () => {
  using state = temporaryFolders();
  const reader = new EventReader(state.folders);
  const file = EventFile.open(state.folders, "a");
  const path = join(eventFolder(state.folders), "a.jsonl");
  appendFileSync(path, "{\"version\":1,\"unixNanos\":\"1\",");
  assert.deepEqual(reader.read(), []);
  appendFileSync(path, "\n");
  file.append(event("die", 5));
  assert.deepEqual(reader.read().map(({ action }) => action), ["die"]);
});

test("a reader that waits is woken by an event", async () => {
  using state = temporaryFolders();
  const reader = new EventReader(state.folders);
  const file = EventFile.open(state.folders, "a");
  const woken = reader.changed(new AbortController().signal);
  file.append(event("oom", 1));
  await woken;
  assert.deepEqual(reader.read().map(({ action }) => action), ["oom"]);
});

test("files are bounded, and go some time after their sandbox", () => {
  using state = temporaryFolders();
  const file = EventFile.open(state.folders, "a");
  const folder = eventFolder(state.folders);
  file.append({ ...event("create", 1), attributes: { long: "x".repeat(1024 * 1024 - 200) } });
  file.append(event("start", 2));
  assert.deepEqual(readdirSync(folder).toSorted(), ["a.jsonl", "a.jsonl.1"]);
  mkdirSync(sandboxPaths(state.folders, "b").folder, { recursive: true });
  EventFile.open(state.folders, "b").append(event("create", 1));
  for (const name of readdirSync(folder)) utimesSync(join(folder, name), 1, 1);
  EventFile.open(state.folders, "c");
  assert.deepEqual(readdirSync(folder), ["b.jsonl"]);
});
