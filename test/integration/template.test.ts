// A template and those who work against it: damage on disk, deaths, a full disk, and a guest and a QEMU that want to change it.
// - one that cannot be made is not tried again at once
// - truncated and bit-flipped files are set aside; the start goes on cold
// - the holder of the memory dies, the host reboots, the template is deleted: VMs that run stay, the next one starts
// - QEMU's own user, with QEMU's descriptors, cannot change the memory; nor can a guest that writes all of its own
// - QEMU killed, or the disk full, while a sandbox is saved: nothing half-made stays, and a living sandbox goes on
// - QEMU killed while it is restored, or a guest that hangs before it has its identity: a bounded wait, then a cold boot
// - it is replaced by another one while VMs use it
// - the CPU is not the one it was saved with: QEMU refuses, or the guest cannot go on; both boot cold
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, closeSync, existsSync, fstatSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, realpathSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { ensureTemplate, templateKeyFor, type TemplateSource } from "../../src/host/containers/ensure-template.ts";
import { prepareHost } from "../../src/host/containers/prepare-host.ts";
import { captureSandbox } from "../../src/host/control/capture-sandbox.ts";
import { ensureGuestImage } from "../../src/host/guest-image/guest-image.ts";
import { copyMemory } from "../../src/host/hypervisor/guest-memory.ts";
import { qemuFds, qemuProgram } from "../../src/host/hypervisor/qemu/arguments.ts";
import { findQemu } from "../../src/host/hypervisor/qemu/find-qemu.ts";
import { ContainerStore } from "../../src/host/store/container-store.ts";
import { snapshotPaths, stateFolders, templatePaths, type StateFolders } from "../../src/host/store/paths.ts";
import { claimSnapshot, listSnapshots } from "../../src/host/template/snapshot-store.ts";
import { openTemplateMemory, releaseTemplateMemory } from "../../src/host/template/template-memory.ts";
import { listTemplates, readTemplate, removeTemplate, type Template } from "../../src/host/template/template-store.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { isAlive, type ProcessIdentity } from "../../src/shared/linux/proc.ts";
import { flipBit } from "../support/flip-bit.ts";
import { watchHost } from "../support/host-clean.ts";
import { requires } from "../support/requires.ts";
import { SandboxHost } from "../support/sandbox-host.ts";
import { TestVm } from "../support/test-vm.ts";

const skip = requires("root");
const within = { timeoutMs: 60_000 };
describe("a template", { skip }, () => {
  const watch = watchHost();
  let folders: StateFolders;
  let template: Template;

  before(async () => {
    const root = mkdtempSync("/tmp/cm-");
    chmodSync(root, 0o711);
    folders = stateFolders(root);
    const machine = stateFolders(undefined);
    const { setup } = await prepareHost(machine, { debug: false, coldBoot: false, onProgress: () => undefined });
    const found = setup.template === undefined ? undefined : readTemplate(machine, setup.template);
    assert.ok(found);
    template = found;
    copyTemplate();
  });
  after(async () => {
    await releaseTemplateMemory(folders);
    rmSync(folders.data, { recursive: true, force: true });
    await watch.assertHostClean();
  });

  /** A copy of the machine's own, to be damaged. */
  function copyTemplate(): void {
    const parent = join(folders.data, "templates");
    mkdirSync(parent, { recursive: true });
    const { status, stderr } = spawnSync("cp", ["-a", "--sparse=always", "--reflink=auto", templatePaths(stateFolders(undefined), template.key).folder, parent], { encoding: "utf8" });
    assert.equal(status, 0, stderr);
  }

  const restore = (name: string): Promise<TestVm> => TestVm.restore(name, { folders, template: template.key });
  const answers = async (vm: TestVm): Promise<void> => {
    const agent = await vm.connect();
    try {
      assert.equal(await agent.sh("echo here"), "here");
    } finally {
      agent.close();
    }
  };
  const holder = (): ProcessIdentity => JSON.parse(readFileSync(templatePaths(folders, template.key).holder, "utf8")) as ProcessIdentity; // template-memory.ts wrote it
  const hashNow = async (fd: number): Promise<string> => (await copyMemory(fd, undefined, template.memoryBytes)).hash;

  test("one that cannot be made is not tried again for ten minutes, unless set-up asks for it", async () => {
    const image = await ensureGuestImage(stateFolders(undefined));
    const source: TemplateSource = { folders, guestImage: { ...image, id: "broken", kernelPath: join(folders.data, "no-kernel") }, accelerator: "tcg" };
    const why = async (tryAgain: boolean): Promise<string> => {
      const choice = await ensureTemplate(source, () => undefined, { ...within, tryAgain });
      assert.equal(choice.key, undefined);
      return choice.why;
    };
    const first = await why(false);
    assert.match(first, /no-kernel/);
    writeFileSync(templatePaths(folders, templateKeyFor(source)).makerLog, "failed: as before");
    assert.equal(await why(false), "as before");
    assert.equal(await why(true), first);
  });

  test("a bit that flipped in memory or state sets it aside; a file that is cut off counts as none", async () => {
    const paths = templatePaths(folders, template.key);
    for (const [path, offset] of [[paths.memory, 16 * 1024 * 1024], [paths.state, 1_000]] as const) {
      await releaseTemplateMemory(folders);
      flipBit(path, offset);
      await assert.rejects(restore("flipped"), (error) => RuntimeError.is(error, "data_loss") && error.reason === "template_corrupt", path);
      assert.equal(readTemplate(folders, template.key), undefined, "it is out of the way");
      assert.ok(existsSync(join(folders.data, "templates/.damaged/template.json")), "and kept for a look");
      copyTemplate();
    }
    for (const path of [paths.memory, paths.state]) {
      chmodSync(path, 0o600);
      truncateSync(path, lstatSync(path).size - 1);
      assert.deepEqual([readTemplate(folders, template.key), listTemplates(folders)], [undefined, []], path);
      rmSync(paths.folder, { recursive: true });
      copyTemplate();
    }
  });

  test("its holder dies, the host reboots, it is deleted: who runs goes on, and the next one starts", async () => {
    const vms = [await restore("first")];
    try {
      const before = holder();
      process.kill(before.pid, "SIGKILL");
      await eventually("the holder's end", () => (isAlive(before) ? undefined : true), within);
      vms.push(await restore("second"));
      assert.notEqual(holder().pid, before.pid, "read from disk again, into the hands of another holder");
      // Nothing of the run folder outlives a reboot; neither does a process.
      await releaseTemplateMemory(folders);
      rmSync(join(folders.run, "templates"), { recursive: true });
      vms.push(await restore("third"));
      // Replaced: the same name, another file. It is read only when nobody holds the former one.
      removeTemplate(folders, template.key);
      copyTemplate();
      vms.push(await restore("replaced"));
      removeTemplate(folders, template.key);
      await releaseTemplateMemory(folders, template.key);
      assert.equal(vms.length, 4);
      for (const vm of vms) await answers(vm);
      await assert.rejects(restore("never"), (error) => RuntimeError.is(error, "not_found") && error.reason === "template_not_found");
    } finally {
      for (const vm of vms) await vm.end();
      copyTemplate();
    }
  });

  test("nobody can change its memory: not QEMU's user with QEMU's descriptor, not a guest that writes all it has", async () => {
    const vm = await restore("hostile");
    const held = await openTemplateMemory(folders, template);
    try {
      const { identity: { pid } } = vm.vm;
      assert.match(readlinkSync(`/proc/${pid}/fd/${qemuFds.memory}`), /^\/memfd:casemate-template/);
      assert.ok(vm.user);
      const { status, stdout, stderr } = spawnSync(process.execPath, [join(import.meta.dirname, "../support/attack-memory.ts"), String(pid), String(vm.user.uid), String(vm.user.gid), String(qemuFds.memory)], { encoding: "utf8" });
      assert.equal(status, 0, stderr);
      const attempts = stdout.trim().split("\n");
      console.log(attempts.join(", "));
      assert.ok(attempts.length >= 6);
      // To open it is allowed; the seals are what protects it.
      assert.deepEqual(attempts.filter((line) => !/: (EPERM|EACCES|EBADF|EINVAL)$/.test(line) && line !== "open anew: done"), []);
      const disk = vm.file("plugged");
      writeFileSync(disk, "");
      truncateSync(disk, 16 * 1024 * 1024);
      await vm.vm.plugDisk({ diskId: "disk0", path: disk, format: "raw", readOnly: false }, within);
      const agent = await vm.connect();
      try {
        // All of its memory, and of what QEMU gives it: the root disk, one that was plugged, both ports, the console.
        assert.equal(await agent.sh("until [ -b /dev/sda ]; do sleep 0.1; done; dd if=/dev/urandom of=/dev/sda bs=1M 2>/dev/null; sync; dd if=/dev/sda bs=1M 2>/dev/null | wc -c", 60_000), String(16 * 1024 * 1024));
        await agent.run("mkdir /all; mount -t tmpfs -o size=100% all /all; cat /dev/zero | tr '\\0' 'x' > /all/x; dd if=/dev/zero of=/dev/vda bs=1M count=1; head -c 100000 /dev/urandom > /dev/console; rm /all/x", 120_000);
      } finally {
        agent.close();
      }
      assert.equal(fstatSync(held.fd).size, template.memoryBytes);
      assert.equal(await hashNow(held.fd), template.memoryHash);
      for (let round = 0; round < 5; round++) await Promise.all(["a", "b", "c", "d"].map(async (name) => {
        const clone = await restore(`sibling-${name}`);
        try {
          await answers(clone);
        } finally {
          await clone.end();
        }
      }));
      assert.equal(await hashNow(held.fd), template.memoryHash, "after 20 clones");
    } finally {
      closeSync(held.fd);
      closeSync(held.useFd);
      await vm.end();
    }
  });

  test("a start with a damaged template boots cold; saving to a full disk leaves the sandbox as it was; QEMU killed while saving leaves nothing", async () => {
    await using host = await SandboxHost.open();
    const sandboxFolders = host.folders;
    rmSync(join(sandboxFolders.data, "templates"), { recursive: true }); // a link to the machine's
    symlinkSync(join(folders.data, "templates"), join(sandboxFolders.data, "templates"));
    const { state } = templatePaths(folders, template.key);
    flipBit(state, 0);
    const hosted = await host.create("cold", { template: template.key });
    assert.equal(hosted.sandbox.vm.startedBy, "cold");
    assert.equal(readTemplate(folders, template.key), undefined);

    const { sandbox } = hosted;
    const store = new ContainerStore(sandboxFolders);
    const save = async (name: string, goOn: boolean): Promise<unknown> => {
      const lock = await claimSnapshot(sandboxFolders, name);
      return captureSandbox(sandbox, store, { name, keep: true, goOn, ...within }).finally(() => closeSync(lock));
    };
    const snapshots = join(sandboxFolders.data, "snapshots");
    mkdirSync(snapshots);
    assert.equal(spawnSync("mount", ["-t", "tmpfs", "-o", "size=8m", "small", snapshots]).status, 0);
    try {
      for (const goOn of [true, false]) {
        await assert.rejects(save("full", goOn), (error) => /ENOSPC|no space left/i.test(String(error instanceof Error ? error.message + String(error.cause) : error)), `goOn: ${goOn}`);
        assert.deepEqual([listSnapshots(sandboxFolders), existsSync(snapshotPaths(sandboxFolders, "full").folder)], [[], false]);
        assert.equal((await host.run(hosted, "", "echo here")).output, "here", "it goes on, even when it was to be stopped");
      }
    } finally {
      spawnSync("umount", ["--lazy", snapshots]);
    }

    const saving = save("killed", true);
    saving.catch(() => { /* looked at below */ });
    await eventually("the snapshot's folder", () => (existsSync(snapshotPaths(sandboxFolders, "killed").state) ? true : undefined), { ...within, intervalMs: 1 });
    process.kill(sandbox.vm.identity.pid, "SIGKILL");
    await assert.rejects(saving);
    await sandbox.ended;
    assert.deepEqual([listSnapshots(sandboxFolders), existsSync(snapshotPaths(sandboxFolders, "killed").folder)], [[], false]);
  });
});

describe("a start from a template that goes wrong on the way", { skip }, () => {
  const watch = watchHost();
  after(() => watch.assertHostClean());

  test("QEMU killed while it is restored, and a guest that hangs in the refresh: both boot cold within their time", async () => {
    await using host = await SandboxHost.open();
    const own = join(host.folders.data, "templates");
    // A template that was made in no time is waited for the least time.
    for (const key of readdirSync(own).filter((name) => name !== "seen")) {
      const shared = realpathSync(join(own, key));
      rmSync(join(own, key));
      const { status, stderr } = spawnSync("cp", ["-a", "--sparse=always", "--reflink=auto", shared, own], { encoding: "utf8" });
      assert.equal(status, 0, stderr);
      const manifest = join(own, key, "template.json");
      writeFileSync(manifest, JSON.stringify({ ...JSON.parse(readFileSync(manifest, "utf8")) as Template, madeInMs: 0 }));
    }
    const vmmOf = (name: string): ProcessIdentity | undefined => (host.ledger(name).find("vmm", "vmm") as { readonly identity?: ProcessIdentity } | undefined)?.identity; // planned by vmmKind
    let restored: ProcessIdentity | undefined;
    const killing = eventually("QEMU", () => vmmOf("killed"), { ...within, intervalMs: 1 }).then((identity) => {
      restored = identity;
      process.kill(identity.pid, "SIGKILL");
    });
    const killed = await host.create("killed");
    await killing;
    assert.equal(killed.sandbox.vm.startedBy, "cold");
    assert.notEqual(killed.sandbox.vm.identity.pid, restored?.pid);
    assert.equal((await host.run(killed, "", "echo here")).output, "here");
    await killed.sandbox.stop(0);

    let stopped: ProcessIdentity | undefined;
    host.hook = (_operation, step, phase) => {
      if (step !== "greet and refresh the guest" || phase !== "before" || stopped !== undefined) return;
      stopped = vmmOf("hangs");
      assert.ok(stopped);
      process.kill(stopped.pid, "SIGSTOP");
    };
    const hangs = await host.create("hangs");
    assert.ok(stopped);
    assert.deepEqual([hangs.sandbox.vm.startedBy, isAlive(stopped)], ["cold", false]);
    assert.equal((await host.run(hangs, "", "echo here")).output, "here");
  });

  test("the CPU lacks what the saved VM has: QEMU refuses, or the guest cannot go on; both boot cold, and others are left alone", async () => {
    await using host = await SandboxHost.open();
    const former = await host.create("former");
    assert.equal(former.sandbox.vm.startedBy, "template");
    const path = process.env["PATH"];
    const bin = mkdtempSync("/tmp/cm-bin-");
    chmodSync(bin, 0o711); // QEMU's user passes through
    const qemu = findQemu();
    /** QEMU with another CPU for the VMs that it restores; those that boot get the usual one. */
    const restoreWith = (cpu: string): void => writeFileSync(join(bin, qemuProgram), `#!/bin/sh
case "$*" in *" -incoming "*) for argument; do shift; [ "$before" = -cpu ] && argument=${cpu}; before=$argument; set -- "$@" "$argument"; done ;; esac
exec ${qemu} "$@"
`, { mode: 0o755 });
    process.env["PATH"] = `${bin}:${path}`;
    try {
      const refused = "max,+avx512-4fmaps,enforce"; // which neither the emulator nor a machine of today has
      restoreWith(refused);
      const key = listTemplates(host.folders)[0]?.template.key;
      await assert.rejects(TestVm.restore("refused", { folders: host.folders, template: key }), (error) => RuntimeError.is(error, "unavailable") && error.reason === "vmm_died" && /QEMU ended at start .*avx512-4fmaps/.test(error.message));
      // The kernel has chosen its instructions by what the CPU could do.
      for (const [name, cpu] of [["refuses", refused], ["lacks", "qemu64"]] as const) {
        restoreWith(cpu);
        const hosted = await host.create(name);
        assert.equal(hosted.sandbox.vm.startedBy, "cold", cpu);
        assert.equal((await host.run(hosted, "", "echo here")).output, "here");
        await hosted.sandbox.stop(0);
      }
    } finally {
      process.env["PATH"] = path;
      rmSync(bin, { recursive: true });
    }
    assert.equal((await host.run(former, "", "echo here")).output, "here");
    assert.equal((await host.create("again")).sandbox.vm.startedBy, "template", "nothing is wrong with it");
  });
});
