// The QMP double against the real QEMU: the same commands, good and bad, get the same answers.
// - a machine that is stopped and never boots; no guest is needed for a refusal
// - compared are the error's class and text, or that there is none
import assert from "node:assert/strict";
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { eventually } from "../../src/shared/base/deadline.ts";
import { startProcess, terminateGroup, type ManagedProcess } from "../../src/shared/linux/run-process.ts";
import { sendDescriptor } from "../../src/shared/linux/send-descriptor.ts";
import { connectUnix, socketPair } from "../../src/shared/linux/unix-socket.ts";
import { QmpDouble } from "../support/qmp-double.ts";

const folder = mkdtempSync(join(tmpdir(), "casemate-qmp-double-"));
const disk = join(folder, "disk");
let qemu: ManagedProcess;

before(async () => {
  writeFileSync(disk, Buffer.alloc(1024 * 1024));
  const socket = join(folder, "real.sock");
  qemu = await startProcess("qemu-system-x86_64", [
    "-nodefaults", "-no-user-config", "-display", "none", "-S", "-machine", "q35", "-m", "64", "-smp", "1,maxcpus=2",
    "-device", "virtio-scsi-pci,id=scsi0", "-device", "virtio-serial-pci,id=serial0,max_ports=4", "-device", "pcie-root-port,id=port0,chassis=1,slot=1",
    "-object", "memory-backend-ram,id=vmem,size=64M", "-device", "virtio-mem-pci,id=vmem0,memdev=vmem,requested-size=0", "-m", "64,maxmem=256M",
    "-qmp", `unix:${socket},server=on,wait=off`,
  ], { stdio: ["ignore", "ignore", "inherit"] });
});

after(async () => {
  await terminateGroup(qemu.child, 1_000);
  rmSync(folder, { recursive: true, force: true });
});

interface Step {
  /** A command as it goes over the wire. */
  readonly send: unknown;
  /** What goes beside it: the disk, or one end of a socket pair. */
  readonly fd?: "disk" | "socket";
}

const run = (execute: string, given: Record<string, unknown> = {}, fd?: Step["fd"]): Step => ({ send: { execute, arguments: given, id: 1 }, ...(fd && { fd }) });
const node = (name: string, more: Record<string, unknown> = {}): Step => run("blockdev-add", { driver: "raw", "node-name": name, "read-only": false, file: { driver: "file", filename: "/dev/fdset/2" }, ...more });
const diskDevice = (more: Record<string, unknown> = {}): Step => run("device_add", { driver: "scsi-hd", id: "d1", bus: "scsi0.0", channel: 0, "scsi-id": 0, lun: 0, drive: "n1", ...more });
const nic = (more: Record<string, unknown> = {}): Step => run("device_add", { driver: "virtio-net-pci", id: "nic1", bus: "port0", netdev: "net1", mac: "02:00:00:00:00:01", ...more });
const port = (more: Record<string, unknown> = {}): Step => run("device_add", { driver: "virtserialport", id: "p1", bus: "serial0.0", nr: 3, chardev: "c1", name: "a.port", ...more });
const chardev = (fdName: string): Step => run("chardev-add", { id: "c1", backend: { type: "socket", data: { addr: { type: "fd", data: { str: fdName } }, server: false } } });

const steps: readonly Step[] = [
  // Before the negotiation nothing is known.
  run("query-status"), run("nonsense"), { send: { execute: "qmp_capabilities", id: "text" } }, run("qmp_capabilities"),
  // What is no command.
  run("nonsense"), { send: "text" }, { send: { arguments: {}, id: 1 } }, { send: { execute: "stop", foo: 1, id: 9 } }, { send: { execute: 5 } },
  { send: { execute: "stop", arguments: 5, id: 9 } }, run("stop", { a: 1 }),
  // Descriptors.
  run("getfd", { fdname: "a" }), run("getfd"), run("getfd", { fdname: 5 }), run("getfd", { fdname: "5" }, "socket"), run("getfd", { fdname: "a" }, "socket"), run("getfd", { fdname: "a" }, "socket"),
  run("closefd", { fdname: "b" }), run("closefd", { fdname: "a" }), run("closefd", { fdname: "a" }),
  run("add-fd", { "fdset-id": 2 }), run("add-fd", { "fdset-id": "x" }), run("add-fd", { "fdset-id": -1 }, "disk"), run("add-fd", { "fdset-id": 2 }, "disk"),
  run("remove-fd", { "fdset-id": 7 }), run("remove-fd"),
  // Block nodes.
  run("blockdev-add"), run("blockdev-add", { driver: "nope" }), run("blockdev-add", { driver: "raw" }), run("blockdev-add", { driver: "raw", file: { driver: "file" } }),
  node("a b"), node("n1", { bogus: 1 }), run("blockdev-add", { driver: "raw", file: { driver: "file", filename: "/dev/fdset/2" } }),
  node("n1", { file: { driver: "file", filename: "/nonexistent" } }), node("n1", { file: { driver: "file", filename: "/dev/fdset/9" } }),
  node("n1"), node("n1"), run("remove-fd", { "fdset-id": 2 }), node("n2"), run("blockdev-del", { "node-name": "zz" }), run("blockdev-del"),
  // Disks.
  run("device_add"), run("device_add", { driver: "nope" }), diskDevice({ bus: "nobus" }), diskDevice({ bus: "port0" }), diskDevice({ drive: "nodrive" }), diskDevice({ bogus: 1 }), diskDevice({ lun: "x" }),
  diskDevice({ id: "1bad" }), diskDevice({ id: "bad id" }), diskDevice(), diskDevice(), diskDevice({ id: "d2" }), run("blockdev-del", { "node-name": "n1" }), run("device_del", { id: "zz" }), run("device_del"),
  run("device_del", { id: "d1" }), run("blockdev-del", { "node-name": "n1" }),
  // Network back ends and cards.
  run("netdev_add", { type: "socket", id: "net1", fd: "nofd" }), run("netdev_add", { type: "nope", id: "net1" }), run("netdev_add", { type: "socket" }), run("netdev_add", { id: "net1" }),
  run("getfd", { fdname: "fd-net" }, "socket"), run("netdev_add", { type: "socket", id: "net1", fd: "fd-net" }), run("netdev_add", { type: "socket", id: "net1", fd: "fd-net" }),
  nic({ netdev: "nonet" }), nic({ mac: "zz" }), nic(), nic(), nic({ id: "nic2" }), run("netdev_del", { id: "zz" }),
  run("device_del", { id: "nic1" }), run("device_del", { id: "nic1" }), run("netdev_del", { id: "net1" }),
  // Character devices.
  run("chardev-add", { id: "c1" }), run("chardev-add", { id: "c1", backend: { type: "nope", data: {} } }), chardev("nofd"), run("getfd", { fdname: "fd-c" }, "socket"), chardev("fd-c"), run("chardev-remove", { id: "zz" }),
  // Serial ports; they go without being asked for by the guest.
  port({ chardev: "nochar" }), port({ bus: "scsi0.0" }), port({ bogus: 1 }), port(), port({ id: "p2" }), run("chardev-remove", { id: "c1" }),
  run("getfd", { fdname: "fd-c2" }, "socket"), run("chardev-add", { id: "c2", backend: { type: "socket", data: { addr: { type: "fd", data: { str: "fd-c2" } }, server: false } } }), port({ id: "p2", chardev: "c2" }),
  // Properties.
  run("qom-set", { path: "/machine/peripheral/zz", property: "x", value: 1 }), run("qom-set", { path: "/machine/peripheral/vmem0", property: "zz", value: 1 }), run("qom-set", { path: "/machine/peripheral/vmem0", property: "requested-size" }),
  run("qom-set", { path: "/machine/peripheral/vmem0", property: "requested-size", value: 0 }),
  run("chardev-remove", { id: "c1" }), run("stop"), run("quit"),
];

/** Sends every step and returns the reply to each: the error, or "ok", and the id it came with. */
async function converse(path: string): Promise<string[]> {
  const socket = await eventually("the monitor", () => connectUnix(path).catch(() => undefined), { timeoutMs: 10_000 });
  const lines: string[] = [];
  let rest = "";
  socket.on("data", (chunk: Buffer) => {
    const parts = (rest + chunk.toString()).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts.filter((line) => !line.includes('"event"')));
  });
  const nextLine = (what: string): Promise<string> => eventually(`answer to ${what}`, () => lines.shift(), { timeoutMs: 5_000, intervalMs: 1 });
  assert.match(await nextLine("the greeting"), /^\{"QMP": ?\{"version"/);
  const answers: string[] = [];
  for (const step of steps) {
    sendStep(socket, step);
    const text = JSON.stringify(step.send);
    answers.push(`${text} -> ${describe(await nextLine(text))}`);
  }
  socket.destroy();
  return answers;
}

function sendStep(socket: Socket, { send, fd }: Step): void {
  const bytes = Buffer.from(JSON.stringify(send) + "\n");
  if (fd === undefined) {
    socket.write(bytes);
    return;
  }
  const fds = fd === "disk" ? [openSync(disk, "r+")] : socketPair();
  sendDescriptor(socket, bytes, fds[0] ?? -1);
  for (const one of fds) closeSync(one);
}

function describe(line: string): string {
  const { id, error } = JSON.parse(line) as { id?: unknown; error?: { class: string; desc: string } }; // a reply of either's
  return `${String(id)} ${error === undefined ? "ok" : `${error.class}: ${error.desc}`}`;
}

test("the double refuses what QEMU refuses, in its words", async () => {
  await using double = await QmpDouble.listen({ path: join(folder, "double.sock") });
  double.vmm.guestLetsGo = false;
  const [doubles, real] = [await converse(join(folder, "double.sock")), await converse(join(folder, "real.sock"))];
  assert.equal(real.length, steps.length);
  assert.deepEqual(doubles.filter((answer, index) => answer !== real[index]), real.filter((answer, index) => answer !== doubles[index]));
});
