import { createHash } from "node:crypto";
import { chmodSync, closeSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, realpathSync, renameSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { eventually } from "../../shared/base/deadline.ts";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { writeFileAtomic } from "../../shared/linux/atomic-file.ts";
import { flockExclusive } from "../../shared/linux/flock.ts";
import { runProcess } from "../../shared/linux/run-process.ts";
import { packageNode, packageRoot } from "../config/package-root.ts";
import { readStateFile } from "../store/state-file.ts";
import type { StateFolders } from "../store/paths.ts";
import { encodeCpio, type CpioEntry } from "./cpio.ts";
import { ModuleIndex } from "./kernel-modules.ts";
import { cachedKernel, ensureKernel, type UnpackedKernel } from "./kernel-package.ts";
import { agentModules, collectRootFiles, findProgram, initModules, type RootFile } from "./root-files.ts";

/** A kernel with the images it boots. */
export interface GuestImage {
  readonly version: 1;
  /** Hash of everything that went in. */
  readonly id: string;
  readonly kernelRelease: string;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  readonly rootImagePath: string;
  readonly sizes: { readonly kernelBytes: number; readonly initramfsBytes: number; readonly rootImageBytes: number };
  /** sha256 of the three files, in that order. */
  readonly hashes: readonly [string, string, string];
  /** Paths in the root image, with their sizes. */
  readonly contents: readonly { readonly path: string; readonly bytes: number }[];
}

/** Changes when this builder makes something else of the same inputs. */
const builderVersion = 1;
/** Building takes some 10 s, fetching the kernel longer. */
const buildTimeoutMs = 20 * 60_000;
/** Unused for longer than this, an image is removed when a template of another one is made. */
const maxAgeMs = 14 * 24 * 3_600_000, dayMs = 24 * 3_600_000;
const manifestName = "manifest.json", draftPrefix = ".new-";
/** A fixed UUID, so that the same files give the same image. */
const rootImageUuid = "c3e7a3f0-5f0e-4e0c-9a5e-0000000000c5";

/** Options of {@link ensureGuestImage}. */
export interface GuestImageOptions {
  readonly onProgress?: (what: string) => void;
}

/**
 * The guest image for this package and these tools: the one that was made before, or a new one. The
 * inputs are compared by size and time, which takes milliseconds; makers wait for one another.
 */
export async function ensureGuestImage(folders: StateFolders, options: GuestImageOptions = {}): Promise<GuestImage> {
  const known = knownGuestImage(folders);
  if (known !== undefined) return known;
  const guest = join(folders.data, "guest");
  mkdirSync(guest, { recursive: true, mode: 0o711 });
  const lock = await eventually("wait for another process that makes the guest image", () => flockExclusive(join(guest, "build.lock")), { timeoutMs: buildTimeoutMs, intervalMs: 200 });
  try {
    return knownGuestImage(folders) ?? await buildGuestImage(folders, options.onProgress ?? (() => undefined));
  } finally {
    closeSync(lock);
  }
}

/** The image made for the present inputs, if there is one and its files are whole in size. */
function knownGuestImage(folders: StateFolders): GuestImage | undefined {
  const kernel = cachedKernel(folders);
  if (kernel === undefined) return undefined;
  const pointer = join(folders.data, "guest/by-inputs", fingerprint(kernel));
  if (!existsSync(pointer)) return undefined;
  const folder = join(folders.data, "guest/images", readFileSync(pointer, "utf8"));
  const image = readStateFile(join(folder, manifestName)) as GuestImage | undefined; // written by buildGuestImage alone
  if (image === undefined) return undefined;
  // Where the files are now: the data folder may have moved, or been reached by another way when the image was made.
  const here = { ...image, ...filesIn(folder) };
  if (!sizesMatch(here)) return undefined;
  noteUse(join(folder, manifestName));
  return here;
}

/** Notes once a day that an image is in use: what is used stays. Who may not write there does not own it either. */
function noteUse(manifest: string): void {
  const now = Date.now();
  if (now - statSync(manifest).mtimeMs < dayMs) return;
  try {
    utimesSync(manifest, new Date(now), new Date(now));
  } catch (error) {
    if (!["EACCES", "EPERM", "EROFS"].some((code) => isErrnoException(error, code))) throw error;
  }
}

/**
 * Removes images that no run has used for 14 days and that are not among those still in use, and what
 * pointed to them. The present one stays. Returns the ids.
 */
export function pruneGuestImages(folders: StateFolders, inUse: ReadonlySet<string>): string[] {
  const lock = flockExclusive(join(folders.data, "guest/build.lock"));
  if (lock === undefined) return []; // somebody makes one: the next time
  try {
    const images = join(folders.data, "guest/images");
    const oldest = Date.now() - maxAgeMs;
    const present = knownGuestImage(folders)?.id;
    const lastUse = (id: string): number => statSync(join(images, id, manifestName), { throwIfNoEntry: false })?.mtimeMs ?? 0;
    const doomed = readdirSync(images).filter((id) => !id.startsWith(".") && id !== present && !inUse.has(id) && lastUse(id) < oldest);
    for (const id of doomed) {
      renameSync(join(images, id), join(images, `${draftPrefix}${id}`)); // half removed, it is no image
      rmSync(join(images, `${draftPrefix}${id}`), { recursive: true, force: true });
    }
    const pointers = join(folders.data, "guest/by-inputs");
    for (const name of readdirSync(pointers)) if (!existsSync(join(images, readFileSync(join(pointers, name), "utf8")))) rmSync(join(pointers, name), { force: true });
    return doomed;
  } finally {
    closeSync(lock);
  }
}

function filesIn(folder: string): Pick<GuestImage, "kernelPath" | "initramfsPath" | "rootImagePath"> {
  return { kernelPath: join(folder, "vmlinux"), initramfsPath: join(folder, "initramfs.cpio"), rootImagePath: join(folder, "root.erofs") };
}

/** Compares every file with its hash. @throws RuntimeError `data_loss` (reason `guest_image_corrupt`), caused by what made the caller look. */
export function verifyGuestImage(image: GuestImage, cause?: unknown): void {
  const files = [image.kernelPath, image.initramfsPath, image.rootImagePath];
  for (const [index, path] of files.entries()) {
    const hash = existsSync(path) ? sha256(readFileSync(path)) : "missing";
    if (hash !== image.hashes[index]) throw new RuntimeError("data_loss", `guest image "${path}": its content has changed`, { cause, reason: "guest_image_corrupt", hint: `remove "${dirname(path)}"; it is made again by the next run` });
  }
}

/** What the image depends on, by size and time of change; the same for every way to this data folder's guest files. */
function fingerprint(kernel: UnpackedKernel): string {
  const root = packageRoot();
  const inputs = [kernel.vmlinux, join(root, "dist/agent.js"), join(root, "guest-image/init"), join(root, "package.json"), packageNode(), ...["crun", "ip", "mkfs.ext4", "resize2fs", "busybox", "tini-static"].map(findProgram)];
  const facts = inputs.map((path) => {
    const { size, mtimeMs } = statSync(path);
    // By their real paths: a data folder may reach the machine's guest images through a link.
    return `${realpathSync(path)} ${size} ${mtimeMs}`;
  });
  return sha256(Buffer.from([`builder ${builderVersion}`, ...facts].join("\n"))).slice(0, 32);
}

function sizesMatch(image: GuestImage): boolean {
  const sizes: readonly [string, number][] = [[image.kernelPath, image.sizes.kernelBytes], [image.initramfsPath, image.sizes.initramfsBytes], [image.rootImagePath, image.sizes.rootImageBytes]];
  return sizes.every(([path, bytes]) => existsSync(path) && statSync(path).size === bytes);
}

async function buildGuestImage(folders: StateFolders, onProgress: (what: string) => void): Promise<GuestImage> {
  const kernel = await ensureKernel(folders, onProgress);
  const images = join(folders.data, "guest/images");
  mkdirSync(images, { recursive: true, mode: 0o711 });
  for (const name of readdirSync(images)) if (name.startsWith(draftPrefix)) rmSync(join(images, name), { recursive: true, force: true }); // of a maker that died; we hold the lock
  const temporary = mkdtempSync(join(images, draftPrefix));
  try {
    onProgress("making the guest image");
    const modules = new ModuleIndex(readFileSync(join(kernel.modules, "modules.dep"), "utf8"), readFileSync(join(kernel.modules, "modules.builtin"), "utf8"));
    writeFileSync(join(temporary, "initramfs.cpio"), makeInitramfs(kernel, modules));
    const staging = join(temporary, "root");
    const contents = await stageRoot(staging, kernel, modules);
    await runProcess("mkfs.erofs", ["-T0", "-U", rootImageUuid, "--all-root", "--quiet", join(temporary, "root.erofs"), staging], { timeoutMs: buildTimeoutMs });
    rmSync(staging, { recursive: true });
    copyFileSync(kernel.vmlinux, join(temporary, "vmlinux"));
    return publish(folders, temporary, kernel, contents);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

function publish(folders: StateFolders, temporary: string, kernel: UnpackedKernel, contents: GuestImage["contents"]): GuestImage {
  const files = ["vmlinux", "initramfs.cpio", "root.erofs"] as const;
  const hash = (name: string): string => sha256(readFileSync(join(temporary, name)));
  const hashes = [hash(files[0]), hash(files[1]), hash(files[2])] as const;
  const id = sha256(Buffer.from(hashes.join("\n"))).slice(0, 32);
  const folder = join(folders.data, "guest/images", id);
  const size = (name: string): number => statSync(join(temporary, name)).size;
  const image: GuestImage = {
    version: 1, id, kernelRelease: kernel.release, ...filesIn(folder),
    sizes: { kernelBytes: size(files[0]), initramfsBytes: size(files[1]), rootImageBytes: size(files[2]) },
    hashes, contents,
  };
  writeFileAtomic(join(temporary, manifestName), JSON.stringify(image, undefined, 1), 0o644);
  // World-readable: QEMU runs as an unprivileged user, and a sandbox cannot write what it cannot open for writing.
  for (const name of files) chmodSync(join(temporary, name), 0o444);
  chmodSync(temporary, 0o755);
  if (!holds(folder, hashes)) {
    rmSync(folder, { recursive: true, force: true });
    renameSync(temporary, folder);
  }
  const pointers = join(folders.data, "guest/by-inputs");
  mkdirSync(pointers, { recursive: true });
  writeFileAtomic(join(pointers, fingerprint(kernel)), id);
  return image;
}

/** True when the same bytes are there already, made from inputs that only look different; running sandboxes may be about to open them. */
function holds(folder: string, hashes: GuestImage["hashes"]): boolean {
  const { kernelPath, initramfsPath, rootImagePath } = filesIn(folder);
  return existsSync(join(folder, manifestName)) && [kernelPath, initramfsPath, rootImagePath].every((path, index) => existsSync(path) && sha256(readFileSync(path)) === hashes[index]);
}

function makeInitramfs(kernel: UnpackedKernel, modules: ModuleIndex): Buffer {
  const files = modules.resolve(initModules);
  const folder = (path: string): CpioEntry => ({ path, type: "folder", mode: 0o755, content: new Uint8Array() });
  const file = (path: string, source: string, mode: number): CpioEntry => ({ path, type: "file", mode, content: readFileSync(source) });
  const names = files.map((path) => path.slice(path.lastIndexOf("/") + 1));
  return encodeCpio([
    ...["bin", "dev", "modules", "proc", "root", "sys"].map(folder),
    file("bin/busybox", findProgram("busybox"), 0o755),
    file("init", join(packageRoot(), "guest-image/init"), 0o755),
    ...files.map((path, index) => file(`modules/${names[index]}`, join(kernel.modules, path), 0o644)),
    { path: "modules/order", type: "file", mode: 0o644, content: Buffer.from(names.join("\n") + "\n") },
  ]);
}

/** Folders of the root image; those that the agent mounts over are empty. */
const rootFolders = ["dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64", "usr/lib/casemate", "usr/sbin", "var"];
/** Links: the merged /usr of Debian, and files the agent writes for each sandbox (docs/agent.md). */
const rootLinks: Readonly<Record<string, string>> = {
  bin: "usr/bin", sbin: "usr/sbin", lib: "usr/lib", lib64: "usr/lib64", "var/run": "/run", "var/tmp": "/tmp",
  "etc/hostname": "/run/casemate/sandbox/hostname", "etc/hosts": "/run/casemate/sandbox/hosts", "etc/resolv.conf": "/run/casemate/sandbox/resolv.conf", "etc/machine-id": "/run/casemate/sandbox/machine-id",
  "etc/mtab": "/proc/self/mounts",
};
const rootTexts: Readonly<Record<string, string>> = {
  "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
  "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
};

async function stageRoot(staging: string, kernel: UnpackedKernel, modules: ModuleIndex): Promise<GuestImage["contents"]> {
  for (const folder of rootFolders) mkdirSync(join(staging, folder), { recursive: true });
  for (const [path, target] of Object.entries(rootLinks)) symlinkSync(target, join(staging, path));
  for (const [path, text] of Object.entries(rootTexts)) writeFileSync(join(staging, path), text);
  const moduleFolder = `usr/lib/modules/${kernel.release}`;
  const moduleFiles = [...modules.resolve([...initModules, ...agentModules]), "modules.order", "modules.builtin", "modules.builtin.modinfo"].map((path): RootFile => ({ target: `/${moduleFolder}/${path}`, source: join(kernel.modules, path), mode: 0o644 }));
  const files = [...await collectRootFiles(), ...moduleFiles];
  for (const { target, source, mode } of files) {
    const path = join(staging, target);
    mkdirSync(dirname(path), { recursive: true });
    copyFileSync(source, path);
    chmodSync(path, mode);
  }
  await linkApplets(staging, new Set(files.map(({ target }) => target)));
  await runProcess("depmod", ["-b", join(staging, "usr"), kernel.release]).catch(async () => runProcess("depmod", ["-b", staging, kernel.release]));
  // Symbols for debuggers are a seventh of Node's size; without `strip` the image is just larger.
  await runProcess("strip", [join(staging, "usr/bin/node")]).catch(() => undefined);
  settleModes(staging);
  utimesSync(staging, 0, 0);
  return files.map(({ target }) => ({ path: target, bytes: statSync(join(staging, target)).size }));
}

/** Folders, and files that tools have made, have the caller's umask; the image is to be the same for everybody. */
function settleModes(folder: string): void {
  chmodSync(folder, 0o755);
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) settleModes(path);
    else if (entry.isFile()) chmodSync(path, (statSync(path).mode & 0o100) === 0 ? 0o644 : 0o755);
  }
}

/** `exec --vm` gives a shell in the guest itself: busybox's applets under their names, where nothing better has the name. */
async function linkApplets(staging: string, taken: ReadonlySet<string>): Promise<void> {
  const { stdout } = await runProcess(findProgram("busybox"), ["--list"]);
  for (const applet of stdout.toString().split("\n").filter((name) => name !== "" && name !== "busybox")) {
    if (!taken.has(`/usr/bin/${applet}`)) symlinkSync("busybox", join(staging, "usr/bin", applet));
  }
}

/** The kernel's command line. `emulated`: the VM's CPUs are. */
export function kernelCommandLine(emulated: boolean): string {
  return [
    "console=ttyS0",
    "quiet",
    // A panic must end the VM at once, so that its owner learns of it; pvpanic has told it why.
    "panic=-1",
    // The self-tests of ciphers take seconds under emulation; the distribution ran them on this kernel.
    "cryptomgr.notests",
    // The guest trusts its (virtual) CPU and its bootloader anyway: both are the host.
    "random.trust_cpu=on", "random.trust_bootloader=on",
    "net.ifnames=0",
    // Pages of 2 MiB for programs that ask for them. The kernel's own choice of them takes memory that clones of a template
    // share out of it again, 2 MiB at a time, and clears as much for a program that needs 4 KiB.
    "transparent_hugepage=madvise",
    // Emulated vCPUs read the same counter, saved and restored with them. A kernel that doubts it, as with an AMD CPU
    // of which a second can be plugged, takes the HPET, and every look at the clock is a call and an exit.
    ...(emulated ? ["tsc=reliable"] : []),
  ].join(" ");
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
