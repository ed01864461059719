import assert from "node:assert/strict";
import { closeSync, existsSync, openSync, readFileSync, readdirSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { cutPower } from "../../../test/support/power-cut.ts";
import { SandboxFixture } from "../../../test/support/sandbox-fixture.ts";
import { copyMemory } from "../hypervisor/guest-memory.ts";
import { ContainerStore } from "../store/container-store.ts";
import { snapshotPaths, stateFolders } from "../store/paths.ts";
import { claimSnapshot, listSnapshots, removeSnapshot } from "../template/snapshot-store.ts";
import { hashState } from "../template/template-store.ts";
import { captureSandbox } from "./capture-sandbox.ts";

test("wherever the power goes while a sandbox is saved, the snapshot is whole or not there, and the next one clears up", async () => {
  using fixture = await SandboxFixture.open();
  fixture.config = { ...fixture.config, shares: false, network: "none" };
  const { folders } = fixture.config;
  const sandbox = await fixture.create();
  fixture.vm.capture = async ({ stateFd, memoryFd, whilePaused }) => {
    writeSync(stateFd, "the devices");
    writeSync(memoryFd, "the memory", 100_000);
    await whilePaused();
    return { touchedBytes: 0, pauseMs: 0 };
  };
  const save = async (): Promise<void> => {
    const lock = await claimSnapshot(folders, "s");
    await captureSandbox(sandbox, new ContainerStore(folders), { name: "s", keep: true, goOn: true }).finally(() => closeSync(lock));
  };
  const cuts = await cutPower(folders.data, save);
  try {
    let there = 0;
    for (const { folder, at } of cuts) {
      const after = stateFolders(folder);
      // The run folder is gone after a reboot.
      rmSync(after.run, { recursive: true, force: true });
      const snapshots = listSnapshots(after);
      for (const { name, memoryBytes, memoryHash, stateHash } of snapshots) {
        const { memory, state } = snapshotPaths(after, name);
        assert.equal(hashState(readFileSync(state)), stateHash, at);
        const fd = openSync(memory, "r");
        assert.equal((await copyMemory(fd, undefined, memoryBytes)).hash, memoryHash, at);
        closeSync(fd);
        there++;
      }
      closeSync(await claimSnapshot(after, "next"));
      closeSync(await claimSnapshot(after, "last"));
      assert.deepEqual(readdirSync(join(folder, "snapshots")), ["last", ...snapshots.map(({ name }) => name)], at);
    }
    console.log(`${cuts.length} cuts, the snapshot there in ${there}`);
    assert.ok(cuts.length >= 12 && there < cuts.length);
    for (const { folder, at } of cuts.slice(-2)) assert.equal(listSnapshots(stateFolders(folder)).length, 1, at);
  } finally {
    for (const { folder } of cuts) rmSync(folder, { recursive: true });
    await removeSnapshot(folders, "s");
    await sandbox.stop(0);
  }
});

test("a snapshot that somebody is making is left alone; one whose maker has died is no snapshot, and its name is free", async () => {
  using fixture = await SandboxFixture.open();
  const { folders } = fixture.config;
  const lock = await claimSnapshot(folders, "s");
  closeSync(await claimSnapshot(folders, "died"));
  await assert.rejects(claimSnapshot(folders, "s"), /exists already/);
  assert.deepEqual([existsSync(snapshotPaths(folders, "s").folder), existsSync(snapshotPaths(folders, "died").folder), listSnapshots(folders)], [true, false, []]);
  closeSync(lock);
  closeSync(await claimSnapshot(folders, "s"));
});
