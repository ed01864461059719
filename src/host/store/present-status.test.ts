import assert from "node:assert/strict";
import { closeSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { flockExclusive } from "../../shared/linux/flock.ts";
import { ContainerStore, type ContainerRecord } from "./container-store.ts";
import { readBootId } from "./host-facts.ts";
import { containerPaths, stateFolders } from "./paths.ts";
import { readPresentStatus } from "./present-status.ts";

test("a container that is to be started again is so while somebody is at it, and no longer", () => {
  const folder = mkdtempSync(join(tmpdir(), "casemate-status-"));
  try {
    const store = new ContainerStore(stateFolders(folder));
    const record = JSON.parse(readFileSync(join(import.meta.dirname, "../../../test/fixtures/state-v1/container.json"), "utf8")) as ContainerRecord; // a whole one
    const { containerId } = record;
    store.create(record, { process: { args: ["true"], cwd: "/" }, root: { path: "rootfs" } });
    const due = (atUnixMs: number): void => store.writeStatus(containerId, { ...store.readStatus(containerId), status: "restarting", bootId: readBootId(), restart: { count: 1, delayMs: 100, atUnixMs } });
    due(Date.now());
    assert.equal(readPresentStatus(store, record).status, "restarting", "what starts it is still on its way");
    due(Date.now() - 6_000);
    assert.equal(readPresentStatus(store, record).status, "exited");
    const lock = flockExclusive(containerPaths(store.folders, containerId).restartLock);
    assert.ok(lock !== undefined);
    assert.equal(readPresentStatus(store, record).status, "restarting", "a boot may take a minute");
    closeSync(lock);
    assert.equal(readPresentStatus(store, record).status, "exited", "what started it was killed");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
