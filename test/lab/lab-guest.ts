import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CpioEntry, encodeCpio } from "../../src/host/guest-image/cpio.ts";
import { ModuleIndex } from "../../src/host/guest-image/kernel-modules.ts";
import { type UnpackedKernel, ensureKernel } from "../../src/host/guest-image/kernel-package.ts";
import { findProgram } from "../../src/host/guest-image/root-files.ts";
import { isRootful, type StateFolders } from "../../src/host/store/paths.ts";
import { type ManagedProcess, startProcess } from "../../src/shared/linux/run-process.ts";
import { ensureLabQemu } from "./lab-qemu.ts";

/** Where a lab guest works. Paths are the same on the host and in the guest. */
export interface LabPlace {
  /** The repository, which the guest sees read-only. */
  readonly root: string;
  /** The one folder of the host that the guest can write to; below the repository. */
  readonly share: string;
  readonly folders: StateFolders;
  readonly vcpuCount: number;
}

/** What mounting the host's root needs; the rest is loaded from there. */
const bootModules = ["virtio_pci", "9pnet_virtio", "9p", "overlay"] as const;

/** Room for several sandboxes, and for everything they write, which stays in memory. */
const memoryMebibytes = 3072;

/** Why this machine cannot run a lab guest; undefined when it can. */
export function labObstacle(): string | undefined {
  if (process.arch !== "x64") return "QEMU emulates virtualization only of AMD's CPUs";
  return isRootful() ? undefined : "only root can show the host's root file system to a guest";
}

/**
 * Boots a guest whose CPU has SVM, so that KVM works inside: emulated by QEMU, on any host. It runs the
 * tests (inside.ts) and turns itself off. Its QEMU ends with this process, however that ends.
 */
export async function startLabGuest(place: LabPlace): Promise<ManagedProcess> {
  const kernel = await ensureKernel(place.folders, () => undefined);
  const qemu = await ensureLabQemu(place.folders);
  const file = (name: string): string => join(place.share, name);
  writeFileSync(file("initramfs.cpio"), makeInitramfs(place, kernel));
  writeFileSync(file("start.log"), "");
  mkdirSync(join(place.root, "dist/.compile-cache"), { recursive: true }); // start.sh mounts memory on it
  const share = (id: string, path: string, readOnly: boolean): string[] => [
    // Several file systems of the host appear as one: without the mapping their inode numbers would collide.
    "-fsdev", `local,id=${id},path=${path.replaceAll(",", ",,")},security_model=none,multidevs=remap${readOnly ? ",readonly=on" : ""}`,
    "-device", `virtio-9p-pci,fsdev=${id},mount_tag=${id}`,
  ];
  return startProcess("setpriv", [
    "--pdeathsig", "KILL", "--", qemu.program, ...qemu.args,
    "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", "casemate-lab",
    // 5-level page tables cost time and nested ones do not go with them.
    "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,svm=on,npt=on,la57=off",
    "-m", String(memoryMebibytes), "-smp", String(place.vcpuCount),
    "-kernel", kernel.vmlinux, "-initrd", file("initramfs.cpio"),
    "-append", "console=ttyS0 quiet panic=-1 cryptomgr.notests random.trust_cpu=on mitigations=off net.ifnames=0",
    "-serial", `file:${file("console.log").replaceAll(",", ",,")}`,
    ...share("root", "/", true), ...share("share", place.share, false),
  ], { stdio: ["ignore", "inherit", "inherit"] });
}

/** The job is in it, one value a line, so that no path has to survive a kernel command line. */
function makeInitramfs({ root, share, folders }: LabPlace, kernel: UnpackedKernel): Buffer {
  const index = new ModuleIndex(readFileSync(join(kernel.modules, "modules.dep"), "utf8"), readFileSync(join(kernel.modules, "modules.builtin"), "utf8"));
  const modules = index.resolve(bootModules).map((path) => ({ name: path.slice(path.lastIndexOf("/") + 1), content: readFileSync(join(kernel.modules, path)) }));
  const folder = (path: string): CpioEntry => ({ path, type: "folder", mode: 0o755, content: new Uint8Array() });
  const file = (path: string, content: Uint8Array | string, mode = 0o644): CpioEntry => ({ path, type: "file", mode, content: Buffer.from(content) });
  return encodeCpio([
    ...["bin", "dev", "lower", "modules", "new", "proc", "rw", "sys"].map(folder),
    file("bin/busybox", readFileSync(findProgram("busybox")), 0o755),
    file("init", readFileSync(join(import.meta.dirname, "init")), 0o755),
    file("job", [root, share, folders.data, kernel.modules, process.execPath].map((value) => `${value}\n`).join("")),
    ...modules.map(({ name, content }) => file(`modules/${name}`, content)),
    file("modules/order", modules.map(({ name }) => `${name}\n`).join("")),
  ]);
}
