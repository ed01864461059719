import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { RuntimeError } from "../../shared/base/errors.ts";
import { UndoStack } from "../../shared/base/undo.ts";
import { ContainerStore } from "./container-store.ts";
import { Ledger, releaserOf, type ResourceKind, type ResourceRecord } from "./ledger.ts";
import { containerPaths, stateFolders } from "./paths.ts";
import { savedContainers, savedSandbox, type SavedContainer } from "./saved-records.ts";
import { mkdirSync } from "node:fs";

const fixtures = join(import.meta.dirname, "../../../test/fixtures/state-v1");

function temporaryFolder(): { path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), "casemate-ledger-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

interface ThingRecord extends ResourceRecord { readonly kind: "thing"; readonly detail: string }

/** A kind that notes what was done, and more precisely what it took. */
function thingKind(done: string[]): ResourceKind<string, ThingRecord, string> {
  return {
    kind: "thing",
    plan: (name) => ({ kind: "thing", name, detail: "" }),
    act: async (record, name, note) => {
      note({ ...record, detail: "taken" });
      done.push(`take ${name}`);
      return name;
    },
    release: async ({ name, detail }) => { done.push(`release ${name}${detail}`); },
  };
}

const container: SavedContainer = {
  kind: "container", name: "c1", bundle: "/b", streamId: 3, io: { terminal: false, stdin: true, holdOutput: false, logPath: "" }, disks: [{ path: "/d", diskId: "disk0" }], shares: ["c1-0"],
  resources: {}, backing: { containerFolder: "", autoRemove: false, lastOneOut: true }, end: { exitStatus: 3, exitedAtUnixNanos: "1795683600000000001", oomKilled: false, reason: "" },
};

test("2.6 Persist files, 2.6 Persist defects, D14: names are on disk before anything is taken, all of a transition at once", async () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "ledger.json");
  const done: string[] = [];
  const kind = thingKind(done), undo = new UndoStack();
  const ledger = Ledger.open(path);
  ledger.reserve([kind.plan("a"), kind.plan("b")]);
  const written = statSync(path).ino;
  assert.deepEqual(Ledger.open(path).records.map(({ name }) => name), ["a", "b"]);
  const planned = ledger.plan((plan) => [plan(kind, "a"), plan(kind, "b")]);
  assert.equal(statSync(path).ino, written, "what is reserved is not written again");
  await planned[0]?.take(undo);
  assert.deepEqual(Ledger.open(path).find("thing", "a"), { kind: "thing", name: "a", detail: "taken" });
  assert.throws(() => ledger.plan((plan) => plan(kind, "a")), (error) => RuntimeError.is(error, "already_exists"));
  assert.throws(() => ledger.reserve([kind.plan("b")]), (error) => RuntimeError.is(error, "already_exists"));
  // A later process knows only the file.
  assert.deepEqual(await Ledger.open(path).releaseAll([releaserOf(kind)]), []);
  assert.deepEqual(done, ["take a", "release b", "release ataken"]);
  assert.deepEqual(Ledger.open(path).records, []);
});

test("a record that was saved is read as it was, and one of another shape is refused by its field", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "ledger.json");
  Ledger.open(path).note(container, { durable: true });
  assert.deepEqual(savedContainers(Ledger.open(path)), [container]);
  assert.equal(savedSandbox(Ledger.open(path)), undefined);
  for (const [field, value] of [["streamId", "3"], ["io", { ...container.io, stdin: 1 }], ["end", { exitStatus: 3 }], ["backing", undefined]] as const) {
    rmSync(path);
    Ledger.open(path).note({ ...container, [field]: value });
    assert.throws(() => savedContainers(Ledger.open(path)), (error) => RuntimeError.is(error, "data_loss") && /"(streamId|stdin|exitedAtUnixNanos|backing)" is /.test(error.message));
  }
});

test("files of version 1 are read", () => {
  const ledger = Ledger.open(join(fixtures, "ledger.json"));
  assert.deepEqual([ledger.bootId, ledger.records.map(({ kind }) => kind)], ["", ["sandbox-user", "network-slot", "passt", "vmm"]]);
  assert.equal(savedSandbox(ledger), undefined);
  using folder = temporaryFolder();
  const store = new ContainerStore(stateFolders(folder.path));
  const { folder: containerFolder, record, status } = containerPaths(store.folders, "c1");
  mkdirSync(containerFolder, { recursive: true });
  copyFileSync(join(fixtures, "container.json"), record);
  copyFileSync(join(fixtures, "status.json"), status);
  assert.deepEqual([store.read("c1")?.name, store.readStatus("c1").status], ["t1", "running"]);
});

test("files of a newer version are refused with a clear text, and stay as they are", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "ledger.json");
  const text = JSON.stringify({ version: 99, records: "of another kind" });
  writeFileSync(path, text);
  assert.throws(() => Ledger.open(path), (error) => RuntimeError.is(error, "failed_precondition") && error.reason === "newer_version" && /version 99, this program knows 2/.test(error.message) && error.hint !== undefined);
  assert.deepEqual([readFileSync(path, "utf8"), readdirSync(folder.path)], [text, ["ledger.json"]]);
});

for (const text of ["", "{", "null", "[]", "{\"version\":2}", "{\"version\":2,\"records\":[{\"kind\":1}]}", "{\"records\":[]}"]) {
  test(`a ledger that is ${JSON.stringify(text)} is no ledger`, () => {
    using folder = temporaryFolder();
    const path = join(folder.path, "ledger.json");
    writeFileSync(path, text);
    assert.throws(() => Ledger.open(path), (error) => RuntimeError.is(error, "data_loss"));
  });
}
