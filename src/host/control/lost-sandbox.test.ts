import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { RuntimeError } from "../../shared/base/errors.ts";
import { startProcess } from "../../shared/linux/run-process.ts";
import { ContainerStore, newStatus, type ContainerRecord } from "../store/container-store.ts";
import { readBootId } from "../store/host-facts.ts";
import { Ledger } from "../store/ledger.ts";
import { containerPaths, sandboxPaths, stateFolders, type StateFolders } from "../store/paths.ts";
import { creatingSandbox, type SavedContainer } from "../store/saved-records.ts";
import { openLedger, releaseLostSandbox } from "./lost-sandbox.ts";

const sandboxId = "s1";

function temporaryState(): { folders: StateFolders; paths: ReturnType<typeof sandboxPaths> } & Disposable {
  const root = mkdtempSync(join(tmpdir(), "casemate-lost-"));
  const folders = stateFolders(root);
  const paths = sandboxPaths(folders, sandboxId);
  mkdirSync(paths.folder, { recursive: true });
  return { folders, paths, [Symbol.dispose]: () => rmSync(root, { recursive: true, force: true }) };
}

/** A container on disk that was running when its sandbox was lost. */
function addContainer(folders: StateFolders, containerId: string, more: Partial<ContainerRecord> = {}): ContainerStore {
  const store = new ContainerStore(folders);
  const record = JSON.parse(readFileSync(join(import.meta.dirname, "../../../test/fixtures/state-v1/container.json"), "utf8")) as ContainerRecord; // a whole one
  store.create({ ...record, containerId, sandboxId, name: containerId, ...more }, {});
  store.writeStatus(containerId, { ...newStatus, status: "running", bootId: readBootId() });
  return store;
}

function savedContainer(name: string, end?: SavedContainer["end"]): SavedContainer {
  return {
    kind: "container", name, bundle: "", streamId: 1, io: { terminal: false, stdin: false, holdOutput: false, logPath: "" }, disks: [], shares: [], resources: {},
    backing: { containerFolder: "", autoRemove: false, lastOneOut: false }, ...(end && { end }),
  };
}

test("a sandbox without owner and VM is given back; its containers have ended, with the code that is known", async () => {
  using state = temporaryState();
  const store = addContainer(state.folders, "ended");
  addContainer(state.folders, "lost");
  addContainer(state.folders, "thrown-away", { autoRemove: true });
  Ledger.open(state.paths.ledger).reserve([creatingSandbox, savedContainer("ended", { exitStatus: 7, exitedAtUnixNanos: "5000000", oomKilled: true, reason: "" }), savedContainer("lost")]);
  assert.equal(await releaseLostSandbox(state.folders, sandboxId), true);
  assert.equal(existsSync(state.paths.folder), false);
  assert.deepEqual(["ended", "lost"].map((id) => store.readStatus(id)).map(({ status, exitCode, oomKilled, error }) => [status, exitCode, oomKilled, error]), [["exited", 7, true, ""], ["exited", 137, false, "owner_lost"]]);
  assert.equal(store.read("thrown-away"), undefined);
});

test("a run folder whose owner was killed while it removed it goes with the next look", async () => {
  using state = temporaryState();
  const gone = join(state.paths.folder, "..", `.gone-${sandboxId}`);
  mkdirSync(gone);
  writeFileSync(join(gone, "owner.log"), "");
  rmSync(state.paths.folder, { recursive: true });
  assert.equal(await releaseLostSandbox(state.folders, sandboxId), true);
  assert.equal(existsSync(gone), false);
});

test("a ledger that cannot be read is set aside, and what the sandbox can hold is worked out from its id", async () => {
  using state = temporaryState();
  writeFileSync(state.paths.ledger, "{ half a led");
  const ledger = openLedger(state.folders, sandboxId);
  const kinds = ledger.records.map(({ kind }) => kind);
  for (const kind of ["share-folder", "virtiofsd", "network-slot", "passt", "vmm"]) assert.ok(kinds.includes(kind), kind);
  const aside = readdirSync(state.paths.folder).filter((name) => name.includes(".corrupt-"));
  assert.deepEqual(aside.map((name) => readFileSync(join(state.paths.folder, name), "utf8")), ["{ half a led"]);
  await releaseLostSandbox(state.folders, sandboxId);
  assert.equal(existsSync(state.paths.folder), false);
});

test("a status that cannot be read is set aside, and its container counts as lost", async () => {
  using state = temporaryState();
  const store = addContainer(state.folders, "c1");
  writeFileSync(containerPaths(state.folders, "c1").status, "");
  await releaseLostSandbox(state.folders, sandboxId);
  assert.equal(store.readStatus("c1").exitCode, 137);
  assert.equal(readdirSync(containerPaths(state.folders, "c1").folder).filter((name) => name.startsWith("status.json.corrupt-")).length, 1);
});

test("a ledger of a newer version is left alone with all it names", async () => {
  using state = temporaryState();
  writeFileSync(state.paths.ledger, JSON.stringify({ version: 99, records: [] }));
  await assert.rejects(releaseLostSandbox(state.folders, sandboxId), (error) => RuntimeError.is(error, "failed_precondition") && error.reason === "newer_version");
  assert.ok(existsSync(state.paths.ledger));
});

test("after a reboot of the host no process is taken for one of ours", async () => {
  using state = temporaryState();
  const { identity, child, exited } = await startProcess("sleep", ["100"], { stdio: "ignore" });
  const records = [creatingSandbox, { kind: "vmm", name: "vmm", token: "s1/vmm", identity }];
  writeFileSync(state.paths.ledger, JSON.stringify({ version: 2, bootId: "00000000-0000-4000-8000-000000000000", records }));
  assert.equal(await releaseLostSandbox(state.folders, sandboxId), true);
  assert.deepEqual([existsSync(state.paths.folder), child.exitCode, child.signalCode], [false, null, null]);
  // In the boot it belongs to, it is.
  mkdirSync(state.paths.folder, { recursive: true });
  writeFileSync(state.paths.ledger, JSON.stringify({ version: 2, bootId: readBootId(), records }));
  await releaseLostSandbox(state.folders, sandboxId);
  assert.equal((await exited).signal, "SIGTERM");
});
