import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { closeSync } from "node:fs";
import { eventually } from "../../../shared/base/deadline.ts";
import { RuntimeError, describeError, type ErrorCode } from "../../../shared/base/errors.ts";
import { callUnchecked } from "../../../shared/linux/libc.ts";
import { socketPair } from "../../../shared/linux/unix-socket.ts";
import { QmpDouble } from "../../../../test/support/qmp-double.ts";
import { QmpClient } from "../qmp/qmp-client.ts";
import type { DiskSpec } from "../virtual-machine.ts";
import { rootPortCount } from "./arguments.ts";
import { HotPlug } from "./hot-plug.ts";

const folder = mkdtempSync(join(tmpdir(), "casemate-hot-plug-"));
let double: QmpDouble;
let qmp: QmpClient;
let sockets: [number, number];

before(async () => {
  double = await QmpDouble.listen({ path: join(folder, "qmp.sock") });
  qmp = await QmpClient.connect(join(folder, "qmp.sock"));
  sockets = socketPair();
  writeFileSync(join(folder, "disk"), "");
});

after(async () => {
  qmp.close();
  await double[Symbol.asyncDispose]();
  for (const fd of sockets) closeSync(fd);
  rmSync(folder, { recursive: true, force: true });
});

const mebibyte = 1024 * 1024;
const newHotPlug = (memoryMode: "private" | "shared" = "shared"): HotPlug => new HotPlug(qmp, { memoryMode, pluggableMemoryBytes: 64 * mebibyte });
const disk = (diskId: string, more: Partial<DiskSpec> = {}): DiskSpec => ({ diskId, path: join(folder, "disk"), format: "raw", readOnly: true, ...more });
const nic = (nicId: string) => ({ nicId, macAddress: "02:00:00:00:00:01", fd: sockets[0] });
const port = (portId: string) => ({ portId, name: `casemate.${portId}`, fd: sockets[0] });
const failsWith = (code: ErrorCode, text: RegExp) => (error: unknown): boolean => RuntimeError.is(error, code) && text.test(describeError(error));
const openFiles = (): number => readdirSync("/proc/self/fd").length;

test("disks get the lowest free LUN and leave nothing when taken back", async () => {
  const hotPlug = newHotPlug();
  assert.deepEqual(await hotPlug.plugDisk(disk("a")), { scsiAddress: "0:0" });
  assert.deepEqual(await hotPlug.plugDisk(disk("b", { readOnly: false })), { scsiAddress: "0:1" });
  await hotPlug.unplug("a");
  assert.deepEqual(await hotPlug.plugDisk(disk("c")), { scsiAddress: "0:0" });
  assert.deepEqual(double.vmm.held.filter((line) => line.startsWith("device")), ["device b", "device c"]);
  for (const id of ["b", "c"]) await hotPlug.unplug(id);
  assert.deepEqual(double.vmm.held, []);
});

test("an id is plugged once, whatever it is", async () => {
  const hotPlug = newHotPlug();
  await hotPlug.plugDisk(disk("same"));
  await assert.rejects(hotPlug.plugDisk(disk("same")), failsWith("already_exists", /"same"/));
  await assert.rejects(hotPlug.plugNic(nic("same")), failsWith("already_exists", /"same"/));
  await hotPlug.unplug("same");
  assert.deepEqual(double.vmm.held, []);
});

test("the same id plugged twice at once: the second one is refused", async () => {
  const hotPlug = newHotPlug();
  const outcomes = await Promise.allSettled([hotPlug.plugDisk(disk("twice")), hotPlug.plugDisk(disk("twice"))]);
  assert.deepEqual(outcomes.map(({ status }) => status), ["fulfilled", "rejected"]);
  await hotPlug.unplug("twice");
  assert.deepEqual(double.vmm.held, []);
});

test("a file that is missing, a FIFO, and a folder for writing are errors that name the file", async () => {
  const hotPlug = newHotPlug();
  callUnchecked("int mkfifo(const char *, unsigned int)", join(folder, "fifo"), 0o600);
  const before = openFiles();
  for (const [path, readOnly, code] of [["missing", true, "not_found"], [".", false, "invalid_argument"]] as const) {
    await assert.rejects(hotPlug.plugDisk(disk("bad", { path: join(folder, path), readOnly })), failsWith(code, new RegExp(`plug disk "${join(folder, path)}"`)));
  }
  // The real QEMU refuses what is no regular file; that it can say so at all is the point.
  await hotPlug.plugDisk(disk("fifo", { path: join(folder, "fifo") }));
  await hotPlug.unplug("fifo");
  assert.deepEqual(double.vmm.held, []);
  assert.equal(openFiles(), before);
});

test("unplug() of an unknown id, or twice, is success; two at once share one request", async () => {
  const hotPlug = newHotPlug();
  await hotPlug.unplug("never");
  await hotPlug.plugNic(nic("net"));
  const commandsBefore = double.commands.length;
  await Promise.all([hotPlug.unplug("net"), hotPlug.unplug("net")]);
  await hotPlug.unplug("net");
  assert.equal(double.commands.slice(commandsBefore).filter((command) => command === "device_del").length, 1);
  assert.deepEqual(double.vmm.held, []);
});

test("unplug() of a device that QEMU lost by itself clears its back end", async () => {
  const hotPlug = newHotPlug();
  await hotPlug.plugDisk(disk("lost"));
  await qmp.execute("device_del", { id: "lost" });
  await eventually("the loss", () => (double.vmm.held.includes("device lost") ? undefined : true), { timeoutMs: 1_000 });
  await hotPlug.unplug("lost");
  assert.deepEqual(double.vmm.held, []);
});

test("a guest that keeps a device costs the given time, and may let go later", async () => {
  const hotPlug = newHotPlug();
  await hotPlug.plugNic(nic("kept"));
  double.vmm.guestLetsGo = false;
  try {
    await assert.rejects(hotPlug.unplug("kept", { timeoutMs: 30 }), failsWith("deadline_exceeded", /unplug "kept"/));
    await assert.rejects(hotPlug.plugNic(nic("kept")), failsWith("already_exists", /"kept"/));
    const again = hotPlug.unplug("kept");
    double.vmm.letGo("kept");
    await again;
    assert.deepEqual(double.vmm.held, []);
  } finally {
    double.vmm.guestLetsGo = true;
  }
});

test("root ports are counted, and come back", async () => {
  const hotPlug = newHotPlug();
  for (let index = 0; index < rootPortCount; index++) await hotPlug.plugNic(nic(`nic${index}`));
  await assert.rejects(hotPlug.plugNic(nic("onetoomany")), failsWith("resource_exhausted", /all 4 ports/));
  await hotPlug.unplug("nic2");
  await hotPlug.plugShare({ shareId: "share", tag: "tag", fd: sockets[0] });
  for (const id of ["nic0", "nic1", "nic3", "share"]) await hotPlug.unplug(id);
  assert.deepEqual(double.vmm.held, []);
});

test("there is room for one port, and for the next when it is gone", async () => {
  const hotPlug = newHotPlug();
  await hotPlug.plugPort(port("lane-1"));
  await assert.rejects(hotPlug.plugPort(port("lane-2")), failsWith("internal", /plug port "lane-2".*already exists/));
  assert.deepEqual(double.vmm.held, ["chardev chardev-lane-1", "device lane-1"]);
  assert.deepEqual(await hotPlug.describe(), { disks: [], nics: [], shares: [], vcpus: [] });
  await hotPlug.unplug("lane-1");
  await hotPlug.plugPort(port("lane-2"));
  await hotPlug.unplug("lane-2");
  assert.deepEqual(double.vmm.held, []);
});

test("a share on private memory is refused before QEMU is asked", async () => {
  const commandsBefore = double.commands.length;
  await assert.rejects(newHotPlug("private").plugShare({ shareId: "share", tag: "tag", fd: sockets[0] }), (error) => RuntimeError.is(error, "failed_precondition") && error.reason === "no_shares");
  assert.equal(double.commands.length, commandsBefore);
});

test("a plug leaves nothing in QEMU whichever of its commands fails", async () => {
  const hotPlug = newHotPlug();
  const plugs: readonly [string, readonly string[], () => Promise<unknown>][] = [
    ["disk", ["add-fd", "blockdev-add", "device_add"], () => hotPlug.plugDisk(disk("part"))],
    ["NIC", ["getfd", "netdev_add", "device_add"], () => hotPlug.plugNic(nic("part"))],
    ["share", ["getfd", "chardev-add", "device_add"], () => hotPlug.plugShare({ shareId: "part", tag: "tag", fd: sockets[0] })],
    ["port", ["getfd", "chardev-add", "device_add"], () => hotPlug.plugPort(port("part"))],
  ];
  const before = openFiles();
  for (const [what, commands, plug] of plugs) {
    for (const command of commands) {
      double.refuse(command);
      await assert.rejects(plug(), failsWith("internal", new RegExp(`plug ${what} .*${command}: refused by the test`)), `${what}: ${command}`);
      assert.deepEqual(double.vmm.held, [], `${what}: ${command}`);
    }
    await plug();
    await hotPlug.unplug("part");
    assert.deepEqual(double.vmm.held, []);
  }
  assert.equal(openFiles(), before);
});

test("a plug whose caller gave up leaves nothing, though QEMU did it after all", async () => {
  const hotPlug = newHotPlug();
  const release = double.hold("device_add");
  await assert.rejects(hotPlug.plugDisk(disk("late"), { timeoutMs: 100 }), failsWith("deadline_exceeded", /QMP device_add/));
  release();
  assert.deepEqual(double.vmm.held, []);
});

test("D20: memory is set within what can be plugged", async () => {
  const hotPlug = newHotPlug();
  await hotPlug.resizeMemory(32 * mebibyte);
  assert.equal(double.vmm.requestedMemory, 32 * mebibyte);
  await assert.rejects(hotPlug.resizeMemory(65 * mebibyte), failsWith("resource_exhausted", /at most/));
  await hotPlug.resizeMemory(0);
  assert.equal(double.vmm.requestedMemory, 0);
});

test("taking back from a VM that has ended succeeds at once", async () => {
  const other = await QmpDouble.listen({ path: join(folder, "other.sock") });
  const client = await QmpClient.connect(join(folder, "other.sock"));
  const hotPlug = new HotPlug(client, { memoryMode: "private", pluggableMemoryBytes: 0 });
  await hotPlug.plugDisk(disk("gone"));
  await other[Symbol.asyncDispose]();
  await client.closed;
  await assert.rejects(hotPlug.unplug("gone"), failsWith("unavailable", /unplug "gone"/));
  hotPlug.vmEnded();
  await hotPlug.unplug("gone");
});

test("a QEMU whose owner died is taken over with what is plugged, and without what was half-made", async () => {
  const before = newHotPlug();
  await before.plugDisk(disk("a"));
  await before.plugDisk(disk("b"));
  await before.plugNic(nic("net0"));
  await before.unplug("a");
  await before.plugPort(port("lane-1"));
  // The owner dies between the two steps of a plug, and of an unplug.
  await qmp.execute("blockdev-add", { driver: "raw", "node-name": "node-half", "read-only": true, file: { driver: "file", filename: join(folder, "disk") } });
  await qmp.execute("getfd", { fdname: "fd-half" }, { fd: sockets[1] });
  await qmp.execute("chardev-add", { id: "chardev-half", backend: { type: "socket", data: { addr: { type: "fd", data: { str: "fd-half" } }, server: false } } });
  const after = await HotPlug.adopt(qmp, { memoryMode: "shared", pluggableMemoryBytes: 64 * mebibyte }, {});
  assert.deepEqual(double.vmm.held.filter((line) => line.includes("half") || line.includes("lane")), []);
  await assert.rejects(after.plugDisk(disk("b")), failsWith("already_exists", /"b"/));
  assert.deepEqual(await after.plugDisk(disk("c")), { scsiAddress: "0:0" });
  assert.deepEqual(await after.plugDisk(disk("d")), { scsiAddress: "0:2" });
  await after.plugNic(nic("net1"));
  for (const id of ["b", "c", "d", "net0", "net1"]) await after.unplug(id);
  assert.deepEqual(double.vmm.held, []);
});
