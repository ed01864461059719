import assert from "node:assert/strict";
import { test } from "node:test";
import { acceleratorArguments, qemuArguments, qemuFds, rootPortCount, type QemuConfig } from "./arguments.ts";
import { pluggableMemoryBytes } from "./qemu-machine.ts";

const mebibyte = 1024 * 1024;
const base: QemuConfig = {
  sandboxId: "a1", accelerator: "tcg", bootMemoryBytes: 256 * mebibyte, pluggableMemoryBytes: 1024 * mebibyte,
  memoryMode: "private", memorySource: "anonymous", incoming: false, generation: "new", vcpus: [], disks: [], nics: [], maxVcpus: 4, commandLine: "console=ttyS0 quiet",
};

/** Values of an option, in order. */
function valuesOf(args: readonly string[], option: string): string[] {
  return args.flatMap((arg, index) => (arg === option ? [args[index + 1] ?? ""] : []));
}

/** One line a case: what is different from the base, the option looked at, its values. */
const table: readonly [what: string, change: Partial<QemuConfig>, option: string, values: readonly string[]][] = [
  ["emulation", {}, "-accel", ["tcg,thread=multi,tb-size=256"]],
  ["emulation", {}, "-cpu", [process.arch === "arm64" ? "max" : "max,-erms"]],
  ["KVM", { accelerator: "kvm" }, "-accel", ["kvm"]],
  ["KVM", { accelerator: "kvm" }, "-cpu", ["host"]],
  ["memory", {}, "-m", ["256M,maxmem=1280M"]],
  ["memory that is no whole MiB is rounded up", { bootMemoryBytes: 256 * mebibyte + 1 }, "-m", ["257M,maxmem=1281M"]],
  ["no pluggable memory", { pluggableMemoryBytes: 0 }, "-m", ["256M"]],
  ["private memory", {}, "-object", ["memory-backend-ram,id=ram0,size=256M", "memory-backend-ram,id=vmem-backend,size=1024M,reserve=off"]],
  ["shared memory", { memoryMode: "shared" }, "-object", ["memory-backend-memfd,share=on,id=ram0,size=256M", "memory-backend-memfd,share=on,id=vmem-backend,size=1024M,reserve=off"]],
  ["a copy-on-write view of a file", { memorySource: "descriptor" }, "-object", [`memory-backend-file,mem-path=/proc/self/fd/${qemuFds.memory},share=off,id=ram0,size=256M`, "memory-backend-ram,id=vmem-backend,size=1024M,reserve=off"]],
  ["a file of its own", { memorySource: "descriptor", memoryMode: "shared", pluggableMemoryBytes: 0 }, "-object", [`memory-backend-file,mem-path=/proc/self/fd/${qemuFds.memory},share=on,id=ram0,size=256M`]],
  ["a saved state", { incoming: true }, "-incoming", ["defer"]],
  ["a saved state needs no kernel", { incoming: true }, "-kernel", []],
  ["no pluggable memory", { pluggableMemoryBytes: 0 }, "-object", ["memory-backend-ram,id=ram0,size=256M"]],
  ["vCPUs", {}, "-smp", ["1,maxcpus=4"]],
  ["one vCPU", { maxVcpus: 1 }, "-smp", ["1,maxcpus=1"]],
  ["command line", { commandLine: "a b,c=d" }, "-append", ["a b,c=d"]],
  ["kernel", {}, "-kernel", [`/proc/self/fd/${qemuFds.kernel}`]],
  ["initramfs", {}, "-initrd", [`/proc/self/fd/${qemuFds.initramfs}`]],
  ["root image", {}, "-add-fd", [`fd=${qemuFds.rootImage},set=1`]],
  ["root image", {}, "-blockdev", ["driver=raw,node-name=root,read-only=on,file.driver=file,file.filename=/dev/fdset/1"]],
  ["monitor", {}, "-mon", ["chardev=qmp,mode=control"]],
  ["console", {}, "-serial", ["chardev:console"]],
  ["name", { sandboxId: "b2" }, "-name", ["casemate-b2"]],
  ["seccomp", {}, "-sandbox", ["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]],
  ["sockets", {}, "-chardev", [
    `socket,id=qmp,fd=${qemuFds.qmp},server=on,wait=off`, `socket,id=console,fd=${qemuFds.console},server=on,wait=off`,
    `socket,id=control,fd=${qemuFds.control},server=on,wait=off`, `socket,id=data,fd=${qemuFds.data},server=on,wait=off`,
  ]],
];

for (const [what, change, option, values] of table) {
  test(`qemuArguments(): ${what}: ${option}`, () => {
    assert.deepEqual(valuesOf(qemuArguments({ ...base, ...change }), option), values);
  });
}

test("qemuArguments() never depends on the machine's own configuration, and never reboots", () => {
  const args = qemuArguments(base);
  for (const option of ["-nodefaults", "-no-user-config", "-no-reboot"]) assert.ok(args.includes(option), option);
});

test("qemuArguments() has the devices that are never plugged", () => {
  const devices = valuesOf(qemuArguments(base), "-device");
  assert.deepEqual(devices.map((device) => device.split(",")[0]), [
    "virtio-mem-pci", "virtio-blk-pci", "virtio-serial-pci", "virtserialport", "virtserialport", "virtio-scsi-pci", "virtio-rng-pci", "vmgenid", "pvpanic-pci",
    ...Array.from({ length: rootPortCount }, () => "pcie-root-port"),
  ]);
  assert.ok(!valuesOf(qemuArguments({ ...base, pluggableMemoryBytes: 0 }), "-device").some((device) => device.startsWith("virtio-mem")));
});

test("2.2 vCPU pinning, 2.2 NUMA: qemuArguments() has one memory node, and leaves the vCPUs to the host", () => {
  const args = qemuArguments({ ...base, maxVcpus: 8 });
  for (const option of ["-numa", "-thread-context", "-overcommit"]) assert.ok(!args.includes(option), option);
  assert.deepEqual(valuesOf(args, "-object").filter((value) => /host-nodes|cpu-affinity/.test(value)), []);
});

test("qemuArguments() gives every VM a generation of its own but those that become templates", () => {
  const generations = (["new", "kept"] as const).map((generation) => valuesOf(qemuArguments({ ...base, generation }), "-device").find((device) => device.startsWith("vmgenid")));
  assert.deepEqual(generations, ["vmgenid,guid=auto", "vmgenid,guid=00000000-0000-0000-0000-000000000000"]);
});

test("qemuArguments() names no path of the host: QEMU gets descriptors, each number once", () => {
  const paths = qemuArguments({ ...base, memoryMode: "shared" }).filter((arg) => /(^|=)\/(?!proc\/self\/fd\/|dev\/fdset\/)/.test(arg));
  assert.deepEqual(paths, []);
  assert.deepEqual(Object.values(qemuFds).toSorted((a, b) => a - b), [3, 4, 5, 6, 7, 8, 9, 10]);
});

test("acceleratorArguments() is what a machine is started with", () => {
  assert.ok(qemuArguments(base).join(" ").includes(acceleratorArguments("tcg").join(" ")));
});

test("pluggableMemoryBytes() is the host's memory in whole steps", () => {
  assert.deepEqual([0, 1, 127, 128, 300].map((size) => pluggableMemoryBytes(size * mebibyte, 128 * mebibyte) / mebibyte), [0, 0, 0, 128, 256]);
});
