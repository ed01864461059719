// QEMU as the driver starts and uses it, with real guests.
// - started apart from the host: own user, no capabilities, own namespaces, seccomp
// - disks, network cards, vCPUs and memory plugged while the guest runs, seen by it, and taken back without a trace
// - every end is noticed at once and has the right reason: power-off, panic, SIGKILL
// - a start that cannot work is a clear error and leaves nothing
import assert from "node:assert/strict";
import { chmodSync, closeSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { drivers } from "../../src/host/assemble.ts";
import { ensureGuestImage } from "../../src/host/guest-image/guest-image.ts";
import type { DiskSpec } from "../../src/host/hypervisor/virtual-machine.ts";
import { Sandbox } from "../../src/host/sandbox/sandbox.ts";
import { Ledger } from "../../src/host/store/ledger.ts";
import { sandboxPaths, stateFolders } from "../../src/host/store/paths.ts";
import { findTaggedProcesses } from "../../src/host/store/tagged-process.ts";
import { eventually, orAbandon } from "../../src/shared/base/deadline.ts";
import { RuntimeError, describeError, type ErrorCode } from "../../src/shared/base/errors.ts";
import { silentLogger } from "../../src/shared/base/log.ts";
import { UndoStack } from "../../src/shared/base/undo.ts";
import { identifyProcess } from "../../src/shared/linux/proc.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { socketPair } from "../../src/shared/linux/unix-socket.ts";
import { keepEvidence } from "../support/evidence.ts";
import { watchHost, type HostWatch } from "../support/host-clean.ts";
import { requires } from "../support/requires.ts";
import { TestVm, type TestAgent } from "../support/test-vm.ts";

const skip = requires("root");
const mebibyte = 1024 * 1024;
const folder = mkdtempSync(join(tmpdir(), "casemate-qemu-"));
let watch: HostWatch;
let machine: TestVm;
let agent: TestAgent;

before(async () => {
  if (skip !== false) return;
  await ensureGuestImage(stateFolders(undefined)); // it stays, so it is no part of what the host is compared with
  watch = watchHost();
  machine = await TestVm.boot("qemu-a");
  agent = await machine.connect();
  await agent.sh("modprobe sd_mod; for i in $(seq 100); do [ -d /sys/module/pvpanic_pci ] && exit 0; sleep 0.1; done; exit 1");
});

afterEach((context) => {
  if ("passed" in context && context.passed === false) keepEvidence(machine.config.folders, context.name);
});

after(async () => {
  if (skip !== false) return;
  await machine.end(); // first: there is no agent when the guest has not answered
  agent.close();
  rmSync(folder, { recursive: true, force: true });
  await watch.assertHostClean();
});

const failsWith = (code: ErrorCode, text: RegExp) => (error: unknown): boolean => RuntimeError.is(error, code) && text.test(describeError(error));
const openFiles = (pid: number | "self"): number => readdirSync(`/proc/${pid}/fd`).length;

/** A file with that text at its beginning, to be plugged as a disk. */
function diskFile(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  truncateSync(path, 2 * mebibyte);
  return path;
}

const disk = (diskId: string, path: string, readOnly = true): DiskSpec => ({ diskId, path, format: "raw", readOnly });

/** A shell script that waits until a condition holds in the guest. */
const untilInGuest = (condition: string): string => `for i in $(seq 200); do ${condition} && exit 0; sleep 0.05; done; exit 1`;

test("QEMU runs as the sandbox's own user, without capabilities, in namespaces of its own, under seccomp", { skip }, () => {
  const { pid } = machine.vm.identity;
  const status = new Map(readFileSync(`/proc/${pid}/status`, "utf8").split("\n").map((line): [string, string] => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]));
  const uid = machine.user?.uid ?? -1;
  assert.ok(uid >= 1_900_000_000);
  for (const name of ["Uid", "Gid"]) assert.equal(status.get(name), Array.from({ length: 4 }, () => uid).join("\t"), name);
  for (const name of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) assert.equal(status.get(name), "0".repeat(16), name);
  assert.equal(status.get("NoNewPrivs"), "1");
  assert.equal(status.get("Seccomp"), "2");
  assert.ok(!(status.get("Groups") ?? "").split(" ").includes("0"), "not in root's group");
  for (const name of ["mnt", "ipc", "net", "uts"]) assert.notEqual(readlinkSync(`/proc/${pid}/ns/${name}`), readlinkSync(`/proc/self/ns/${name}`), name);
  assert.equal(readFileSync(`/proc/${pid}/net/dev`, "utf8").trim().split("\n").length, 3, "no network interface but lo");
});

test("a disk is seen by the guest, read and written, and gone after the unplug", { skip }, async () => {
  const path = diskFile("writable", "from the host");
  const { scsiAddress } = await machine.vm.plugDisk(disk("w", path, false));
  assert.equal(scsiAddress, "0:0");
  await agent.sh(untilInGuest("[ -b /dev/sda ]"));
  assert.equal(await agent.sh("head -c 13 /dev/sda; cat /sys/block/sda/size /sys/block/sda/ro"), "from the host4096\n0");
  await agent.sh("printf 'from the guest' | dd of=/dev/sda conv=fsync 2>/dev/null");
  assert.equal(readFileSync(path, "utf8").slice(0, 14), "from the guest");
  await machine.vm.unplug("w");
  await agent.sh(untilInGuest("[ ! -e /sys/block/sda ]"));
});

test("a read-only disk is read-only for the guest's root", { skip }, async () => {
  const path = diskFile("readonly", "keep");
  await machine.vm.plugDisk(disk("r", path));
  await agent.sh(untilInGuest("[ -b /dev/sda ]"));
  const { exitStatus } = await agent.run("blockdev --setrw /dev/sda; printf lost | dd of=/dev/sda conv=fsync");
  assert.notEqual(exitStatus, 0);
  assert.equal(readFileSync(path, "utf8").slice(0, 4), "keep");
  await machine.vm.unplug("r");
});

test("a block device of the host is a disk too", { skip }, async () => {
  const { stdout } = await runProcess("losetup", ["--find", "--show", diskFile("loop", "block device")]);
  const device = stdout.toString().trim();
  try {
    await machine.vm.plugDisk(disk("b", device, false));
    await agent.sh(untilInGuest("[ -b /dev/sda ]"));
    assert.equal(await agent.sh("head -c 12 /dev/sda"), "block device");
    await machine.vm.unplug("b");
  } finally {
    await runProcess("losetup", ["--detach", device]);
  }
});

test("an id that is plugged, a missing file and a folder are refused, and the VM goes on", { skip }, async () => {
  const path = diskFile("once", "once");
  const before = openFiles(machine.vm.identity.pid);
  await machine.vm.plugDisk(disk("once", path));
  await assert.rejects(machine.vm.plugDisk(disk("once", path)), failsWith("already_exists", /"once"/));
  await assert.rejects(machine.vm.plugDisk(disk("none", join(folder, "missing"))), failsWith("not_found", /plug disk ".*missing".*ENOENT/));
  await assert.rejects(machine.vm.plugDisk(disk("folder", folder)), failsWith("internal", /plug disk .*regular file/));
  await machine.vm.unplug("once");
  await machine.vm.unplug("once");
  await machine.vm.unplug("never");
  await eventually("QEMU's files as before", () => (openFiles(machine.vm.identity.pid) === before ? true : undefined), { timeoutMs: 2_000 });
});

test("plugging and unplugging 20 times leaves QEMU's files and ours as they were", { skip }, async () => {
  const path = diskFile("often", "often");
  const { pid } = machine.vm.identity;
  const [theirs, ours] = [openFiles(pid), openFiles("self")];
  for (let round = 0; round < 20; round++) {
    assert.deepEqual(await machine.vm.plugDisk(disk(`often${round}`, path, round % 2 === 0)), { scsiAddress: "0:0" });
    await machine.vm.unplug(`often${round}`);
  }
  await eventually("QEMU's files as before", () => (openFiles(pid) === theirs ? true : undefined), { timeoutMs: 2_000 });
  assert.equal(openFiles("self"), ours);
});

test("several disks at once each have a LUN of their own", { skip }, async () => {
  const paths = ["one", "two", "three"].map((name) => diskFile(name, name));
  const plugged = await Promise.all(paths.map((path, index) => machine.vm.plugDisk(disk(`many${index}`, path))));
  assert.deepEqual(plugged.map(({ scsiAddress }) => scsiAddress), ["0:0", "0:1", "0:2"]);
  await agent.sh(untilInGuest("[ -b /dev/sda ] && [ -b /dev/sdb ] && [ -b /dev/sdc ]"));
  for (const [lun, name] of ["one", "two", "three"].entries()) {
    assert.equal(await agent.sh(`head -c ${name.length} /dev/$(ls /sys/class/scsi_device/*:0:0:${lun}/device/block)`), name);
  }
  await Promise.all(paths.map((_, index) => machine.vm.unplug(`many${index}`)));
});

test("a network card comes and goes, and its socket with it", { skip }, async () => {
  const { pid } = machine.vm.identity;
  const before = openFiles(pid);
  const [ours, theirs] = socketPair();
  await machine.vm.plugNic({ nicId: "net0", macAddress: "02:00:00:00:00:07", fd: theirs });
  closeSync(theirs);
  await agent.sh(untilInGuest("[ -d /sys/class/net/eth0 ]"));
  assert.equal(await agent.sh("cat /sys/class/net/eth0/address"), "02:00:00:00:00:07");
  await machine.vm.unplug("net0");
  await agent.sh(untilInGuest("[ ! -e /sys/class/net/eth0 ]"));
  closeSync(ours);
  await eventually("QEMU's files as before", () => (openFiles(pid) <= before ? true : undefined), { timeoutMs: 2_000 });
});

test("vCPUs and memory grow to what was promised and no further", { skip }, async () => {
  const cpus = availableParallelism();
  await machine.vm.growVcpus(cpus);
  await machine.vm.growVcpus(1); // fewer than there are: nothing to do
  assert.equal(await agent.sh("ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l"), String(cpus));
  await assert.rejects(machine.vm.growVcpus(cpus + 1), failsWith("resource_exhausted", new RegExp(`can have ${cpus}`)));
  const kibibytes = async (): Promise<number> => Number(await agent.sh("awk '/MemTotal/ { print $2 }' /proc/meminfo"));
  const before = await kibibytes();
  await machine.vm.resizeMemory(128 * mebibyte);
  await eventually("more memory", async () => (await kibibytes() - before >= 120 * 1024 ? true : undefined), { timeoutMs: 10_000, intervalMs: 100 });
  await assert.rejects(machine.vm.resizeMemory(2 ** 50), failsWith("resource_exhausted", /at most/));
});

test("a share that the guest does not see yet is mounted once it does", { skip }, async () => {
  const vm = await TestVm.boot("qemu-s", { shares: true });
  const ledger = Ledger.open(vm.file("shares-ledger.json"));
  const undo = new UndoStack();
  try {
    const shares = drivers.shares(vm.config, ledger);
    const device = await shares.serve(undo);
    const connection = await vm.connect();
    const mounting = connection.client.guest.addStorages({ storages: [{ driver: "virtio-fs", source: device.tag, fstype: "virtiofs", mountPoint: shares.guestMountPoint }] }, { timeoutMs: 20_000 });
    await assert.rejects(orAbandon(mounting, "the mount", { timeoutMs: 500 }), (error) => RuntimeError.is(error, "deadline_exceeded"), "it waits for the device");
    await vm.vm.plugShare(device);
    await mounting;
    assert.equal(await connection.sh(`grep -c ' ${shares.guestMountPoint} virtiofs ' /proc/mounts`), "1");
    connection.close();
  } finally {
    // The share goes after whoever uses it, and before the folder it is mounted in.
    await vm.vm.kill();
    assert.deepEqual(await undo.run(), []);
    await vm.end();
  }
});

test("a paused guest does not answer, and goes on when it is resumed", { skip }, async () => {
  await machine.vm.pause();
  await assert.rejects(agent.sh("true", 500), (error) => RuntimeError.is(error, "deadline_exceeded"));
  await machine.vm.resume();
  assert.equal(await agent.sh("echo again"), "again");
});

test("a panic of the guest's kernel ends the VM as panicked, with its last words", { skip }, async () => {
  void agent.run("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger").catch(() => { /* nobody is left to answer */ });
  const exit = await orAbandon(machine.vm.exited, "the end of the VM", { timeoutMs: 10_000 });
  assert.equal(exit.reason, "panicked");
  assert.match(exit.consoleTail, /Kernel panic/);
  await assert.rejects(machine.vm.pause(), failsWith("unavailable", /QMP stop/));
  await machine.vm.unplug("anything");
  await machine.vm.kill();
});

test("a guest that reboots, as one whose CPU gives up does, ends its VM as reset", { skip }, async () => {
  const vm = await TestVm.boot("qemu-r");
  const guest = await vm.connect();
  void guest.run("echo 1 > /proc/sys/kernel/sysrq; echo b > /proc/sysrq-trigger").catch(() => { /* nobody is left to answer */ });
  assert.equal((await orAbandon(vm.vm.exited, "the end of the VM", { timeoutMs: 10_000 })).reason, "reset");
  guest.close();
  await vm.end();
});

test("an orderly end by the agent is powered_off, and leaves nothing in our process", { skip }, async () => {
  const before = openFiles("self");
  const vm = await TestVm.boot("qemu-b");
  const connection = await vm.connect();
  await connection.client.guest.powerOff({ graceMs: 0 }, { timeoutMs: 5_000 });
  const exit = await orAbandon(vm.vm.exited, "the end of the VM", { timeoutMs: 10_000 });
  assert.deepEqual([exit.reason, exit.process.exitCode], ["powered_off", 0]);
  connection.close();
  await vm.end();
  await eventually("our files as before", () => (openFiles("self") === before ? true : undefined), { timeoutMs: 2_000 });
});

test("SIGKILL of QEMU is noticed within a second by everybody who waits, with the last console lines", { skip }, async () => {
  const vm = await TestVm.boot("qemu-c");
  try {
    await eventually("output of the guest", () => (readFileSync(vm.paths.console).length > 0 ? true : undefined), { timeoutMs: 30_000 });
    const waiters = [vm.vm.exited, vm.vm.exited];
    const killedAt = performance.now();
    process.kill(vm.vm.identity.pid, "SIGKILL");
    const exits = await Promise.all(waiters);
    assert.ok(performance.now() - killedAt < 1_000, `noticed after ${performance.now() - killedAt} ms`);
    for (const exit of exits) {
      assert.deepEqual([exit.reason, exit.process.signal], ["died", "SIGKILL"]);
      assert.ok(exit.consoleTail.length > 0 && readFileSync(vm.paths.console, "latin1").replaceAll("\r", "").endsWith(exit.consoleTail.slice(-20)));
    }
  } finally {
    await vm.end();
  }
});

test("a sandbox whose QEMU is killed while it starts fails at once, with the guest's last words, and leaves nothing", { skip }, async () => {
  const state = mkdtempSync("/tmp/cm-");
  chmodSync(state, 0o711);
  const config = { ...machine.config, sandboxId: "qemu-k", folders: stateFolders(state) };
  const paths = sandboxPaths(config.folders, config.sandboxId);
  mkdirSync(paths.folder, { recursive: true });
  const ledger = Ledger.open(paths.ledger);
  const creating = Sandbox.create(config, { drivers, ledger, log: silentLogger, onEvent: () => undefined, recordEnd: () => undefined }, { timeoutMs: 60_000 });
  const outcome = assert.rejects(creating, (error) => RuntimeError.is(error, "unavailable") && error.reason === "vmm_died" && /end of its console:\n.*\S/.test(describeError(error)));
  await eventually("output of the guest", () => (existsSync(paths.console) && readFileSync(paths.console).length > 0 ? true : undefined), { timeoutMs: 30_000 });
  const killedAt = performance.now();
  process.kill(findTaggedProcesses("qemu-k/vmm")[0]?.pid ?? -1, "SIGKILL");
  await outcome;
  assert.ok(performance.now() - killedAt < 2_000, `failed after ${performance.now() - killedAt} ms`);
  assert.deepEqual(ledger.records, []);
  rmSync(state, { recursive: true });
});

test("kill() ends a guest that is only booting, also a paused one, and twice is once", { skip }, async () => {
  const vm = await TestVm.boot("qemu-d");
  await vm.vm.pause();
  await Promise.all([vm.vm.kill(), vm.vm.kill()]);
  await vm.vm.kill();
  assert.equal((await vm.vm.exited).reason, "died");
  assert.equal(identifyProcess(vm.vm.identity.pid), undefined);
  await vm.end();
});

test("without QEMU the error says what to install", { skip }, async () => {
  const path = process.env["PATH"];
  process.env["PATH"] = folder;
  try {
    await assert.rejects(TestVm.boot("qemu-e"), (error) => RuntimeError.is(error, "not_found") && error.reason === "tool_missing" && error.hint?.includes("apt-get install") === true);
  } finally {
    process.env["PATH"] = path;
  }
});

test("a kernel file that is missing or no kernel is an error with QEMU's own words", { skip }, async () => {
  await assert.rejects(TestVm.boot("qemu-f", { kernelPath: join(folder, "no-kernel") }), (error) => RuntimeError.is(error, "failed_precondition") && error.reason === "guest_image_missing" && /no-kernel/.test(error.message));
  const { kernelPath } = await ensureGuestImage(stateFolders(undefined));
  const [noKernel, cut] = [diskFile("text", "this is no kernel"), join(folder, "cut")];
  copyFileSync(kernelPath, cut);
  chmodSync(cut, 0o644);
  truncateSync(cut, 100_000);
  chmodSync(folder, 0o711);
  for (const path of [noKernel, cut]) {
    const began = performance.now();
    await assert.rejects(TestVm.boot("qemu-g", { kernelPath: path }), (error) => RuntimeError.is(error, "unavailable") && error.reason === "vmm_died" && /QEMU ended at start \(exit code 1\): .*(kernel|load)/.test(error.message), path);
    assert.ok(performance.now() - began < 5_000);
  }
});
