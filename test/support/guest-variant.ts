import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { encodeCpio } from "../../src/host/guest-image/cpio.ts";
import { ensureGuestImage } from "../../src/host/guest-image/guest-image.ts";
import { stateFolders, type StateFolders } from "../../src/host/store/paths.ts";
import { sha256 } from "./image-fixture.ts";

/** What is other than in the machine's own guest image. */
export interface GuestVariant {
  /** A shell script that the guest's first process is, with busybox alone; what it prints goes to the console. */
  readonly init?: string;
  /** Overwrites the middle of the kernel, behind the back of the image's manifest. */
  readonly corruptKernel?: boolean;
}

/** Puts a guest image that differs from the machine's into an empty state folder; it is found there as the one to use. */
export async function plantGuest(folders: StateFolders, variant: GuestVariant): Promise<void> {
  const machine = stateFolders(undefined);
  const image = await ensureGuestImage(machine);
  const guest = join(folders.data, "guest");
  const imageFolder = join(guest, "images", image.id);
  mkdirSync(imageFolder, { recursive: true, mode: 0o711 });
  symlinkSync(join(machine.data, "guest/kernels"), join(guest, "kernels"));
  cpSync(join(machine.data, "guest/by-inputs"), join(guest, "by-inputs"), { recursive: true });
  symlinkSync(image.rootImagePath, join(imageFolder, "root.erofs"));
  const kernelPath = join(imageFolder, "vmlinux");
  const initramfsPath = join(imageFolder, "initramfs.cpio");
  copyFileSync(image.kernelPath, kernelPath);
  if (variant.corruptKernel === true) corrupt(kernelPath);
  if (variant.init === undefined) copyFileSync(image.initramfsPath, initramfsPath);
  else writeFileSync(initramfsPath, initramfsOf(variant.init));
  const { hashes: [kernelHash, , rootHash], sizes } = image;
  writeFileSync(join(imageFolder, "manifest.json"), JSON.stringify({
    ...image,
    sizes: { ...sizes, initramfsBytes: statSync(initramfsPath).size },
    hashes: [kernelHash, sha256(readFileSync(initramfsPath)), rootHash],
  }));
  // What the host can do does not depend on this guest, and must not be tried with it.
  const accelerator = join(machine.data, "accelerator.json");
  if (existsSync(accelerator)) copyFileSync(accelerator, join(folders.data, "accelerator.json"));
}

function corrupt(path: string): void {
  const bytes = readFileSync(path);
  bytes.fill(0, Math.floor(bytes.length / 4), Math.floor(bytes.length / 2));
  chmodSync(path, 0o644);
  writeFileSync(path, bytes);
}

function initramfsOf(init: string): Buffer {
  const busybox = ["/usr/bin/busybox", "/bin/busybox"].find((path) => existsSync(path)) ?? "/bin/busybox";
  const script = `#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs devtmpfs /dev\nexec >/dev/ttyS0 2>&1\n${init}\n`;
  return encodeCpio([
    ...["bin", "dev"].map((path) => ({ path, type: "folder" as const, mode: 0o755, content: new Uint8Array() })),
    { path: "bin/busybox", type: "file", mode: 0o755, content: readFileSync(busybox) },
    { path: "init", type: "file", mode: 0o755, content: Buffer.from(script) },
  ]);
}
