import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeCpio, type CpioEntry } from "../../src/host/guest-image/cpio.ts";
import { ensureKernel } from "../../src/host/guest-image/kernel-package.ts";
import { ModuleIndex } from "../../src/host/guest-image/kernel-modules.ts";
import { stateFolders } from "../../src/host/store/paths.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { startProcess, terminateGroup, type ManagedProcess } from "../../src/shared/linux/run-process.ts";

/** Longest time a boot or a command may take under emulation on a loaded machine. */
const bootTimeoutMs = 90_000;
const commandTimeoutMs = 20_000;

/**
 * The smallest guest that mounts a share: Debian's kernel, busybox, a shell on the serial line. It
 * tries virtiofsd without our agent, so that a failure says which side it is on.
 */
export class ShareGuest {
  readonly #process: ManagedProcess;
  readonly #folder: string;
  #output = "";

  private constructor(process: ManagedProcess, folder: string) {
    this.#process = process;
    this.#folder = folder;
    process.child.stdout?.on("data", (chunk: Buffer) => { this.#output += chunk.toString(); });
  }

  /** Boots with that vhost-user socket and mounts the share. The guest gets a copy of the descriptor. */
  static async boot(fd: number, tag: string, mountPoint: string): Promise<ShareGuest> {
    const folder = mkdtempSync(join(tmpdir(), "casemate-share-guest-"));
    const initramfs = join(folder, "initramfs.cpio");
    const kernel = await ensureKernel(stateFolders(undefined), () => undefined);
    writeFileSync(initramfs, initramfsOf(kernel.modules, tag, mountPoint));
    const process = await startProcess("qemu-system-x86_64", [
      "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,memory-backend=mem", "-accel", "tcg", "-cpu", "max",
      "-m", "256", "-object", "memory-backend-memfd,id=mem,size=256M,share=on",
      "-kernel", kernel.vmlinux, "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1 cryptomgr.notests", "-no-reboot",
      "-serial", "stdio", "-chardev", "socket,id=share,fd=3", "-device", `vhost-user-fs-pci,chardev=share,tag=${tag}`,
    ], { stdio: ["pipe", "pipe", "inherit", fd] });
    const guest = new ShareGuest(process, folder);
    await guest.#until(/@@READY/, bootTimeoutMs, "boot");
    await guest.sh("PS1=; PS2="); // the shell takes the line for a terminal; its greeting goes with this answer
    return guest;
  }

  /** Runs a shell command; answers what it printed. @throws RuntimeError when it fails. */
  async sh(command: string): Promise<string> {
    this.#output = "";
    this.#process.child.stdin?.write(`{ ${command}; } 2>&1; echo "@@$?"\n`);
    const [text, code] = await this.#until(/@@(\d+)/, commandTimeoutMs, command);
    const printed = text.replaceAll("\r", "").trim();
    if (code !== "0") throw new RuntimeError("internal", `in the guest: ${command}: exit code ${code}: ${printed}`);
    return printed;
  }

  async end(): Promise<void> {
    await terminateGroup(this.#process.child, 2_000);
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #until(pattern: RegExp, timeoutMs: number, what: string): Promise<[before: string, code: string]> {
    for (const end = performance.now() + timeoutMs; performance.now() < end;) {
      const match = pattern.exec(this.#output);
      if (match !== null) return [this.#output.slice(0, match.index), match[1] ?? ""];
      await new Promise((next) => setTimeout(next, 20));
    }
    throw new RuntimeError("deadline_exceeded", `${what}: not within ${timeoutMs} ms: ${this.#output.slice(-2_000)}`);
  }
}


function initramfsOf(modules: string, tag: string, mountPoint: string): Buffer {
  const index = new ModuleIndex(readFileSync(join(modules, "modules.dep"), "utf8"), readFileSync(join(modules, "modules.builtin"), "utf8"));
  const paths = index.resolve(["virtio_pci", "virtiofs"]);
  const init = [
    "#!/bin/busybox sh",
    "/bin/busybox --install -s /bin", "export PATH=/bin",
    "mount -t proc proc /proc", "mount -t sysfs sysfs /sys", "mount -t devtmpfs dev /dev",
    ...paths.map((_, number) => `insmod /modules/${number}.ko`),
    `mkdir -p ${mountPoint}`, `mount -t virtiofs ${tag} ${mountPoint} && echo @@READY`,
    "stty -echo < /dev/ttyS0",
    "exec sh < /dev/ttyS0 > /dev/ttyS0 2>&1", "",
  ].join("\n");
  const file = (path: string, content: Uint8Array): CpioEntry => ({ path, type: "file", mode: 0o755, content });
  const folder = (path: string): CpioEntry => ({ path, type: "folder", mode: 0o755, content: new Uint8Array() });
  return encodeCpio([
    ...["bin", "proc", "sys", "dev", "modules", "run", "tmp"].map(folder),
    file("init", Buffer.from(init)), file("bin/busybox", readFileSync("/bin/busybox")),
    ...paths.map((path, number) => file(`modules/${number}.ko`, readFileSync(join(modules, path)))),
  ]);
}
