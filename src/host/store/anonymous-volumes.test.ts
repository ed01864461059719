import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { removeWithVolumes } from "./anonymous-volumes.ts";
import { ContainerStore, type ContainerRecord } from "./container-store.ts";
import { stateFolders, volumeFolder } from "./paths.ts";

test("volumes without a name go with the last container that has them; named ones stay", () => {
  const folders = stateFolders(mkdtempSync(join(tmpdir(), "cm-volumes-")));
  try {
    const own = "a".repeat(64), shared = "b".repeat(64);
    for (const name of [own, shared, "kept"]) mkdirSync(join(volumeFolder(folders, name), "_data"), { recursive: true });
    const store = new ContainerStore(folders);
    const record = (containerId: string, ...names: readonly string[]): ContainerRecord =>
      ({ version: 1, containerId, name: containerId, sandboxId: containerId, volumes: names.map((name) => ({ name })) }) as unknown as ContainerRecord; // what is not here is not looked at
    const first = record("first", own, shared, "kept", ""), second = record("second", shared);
    for (const one of [first, second]) store.create(one, {});
    const left = (): string[] => [own, shared, "kept"].filter((name) => existsSync(volumeFolder(folders, name)));
    removeWithVolumes(store, first);
    assert.deepEqual(left(), [shared, "kept"]);
    assert.deepEqual(store.list().map(({ containerId }) => containerId), ["second"]);
    removeWithVolumes(store, second);
    assert.deepEqual(left(), ["kept"]);
  } finally {
    rmSync(folders.data, { recursive: true });
  }
});
