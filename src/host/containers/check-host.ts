import { accessSync, constants, existsSync, statfsSync } from "node:fs";
import { freemem, totalmem } from "node:os";
import { dirname } from "node:path";

import { RuntimeError, describeError, isErrnoException } from "../../shared/base/errors.ts";
import { runProcess } from "../../shared/linux/run-process.ts";
import { mebibytes } from "../../shared/base/mebibytes.ts";
import { ensureGuestImage, verifyGuestImage, type GuestImage } from "../guest-image/guest-image.ts";
import { chooseAccelerator } from "../assemble.ts";
import { bootMemoryBytes } from "../sandbox/sandbox-config.ts";
import { isRootful, type StateFolders } from "../store/paths.ts";

/** One thing this machine has, or lacks. */
export interface HostCheck {
  readonly name: string;
  /** `missing`: nothing runs without it; `degraded`: something is slower or absent. */
  readonly state: "ok" | "missing" | "degraded";
  /** A stable word for programs, e.g. `kvm_silent`, `tool_missing`. */
  readonly code: string;
  readonly detail: string;
  /** The command or step that mends it; empty when there is nothing to mend. */
  readonly fix: string;
}

interface Tool {
  readonly programs: readonly string[];
  readonly debianPackage: string;
  readonly purpose: string;
  readonly versionArguments: readonly string[];
  /** Some runs do without it. */
  readonly optional?: boolean;
}

const tools: readonly Tool[] = [
  { programs: ["qemu-system-x86_64"], debianPackage: "qemu-system-x86", purpose: "runs the virtual machines", versionArguments: ["--version"] },
  { programs: ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "virtiofsd"], debianPackage: "qemu-system-common", purpose: "shares host folders (-v)", versionArguments: ["--version"], optional: true },
  { programs: ["passt"], debianPackage: "passt", purpose: "gives sandboxes a network", versionArguments: ["--version"], optional: true },
  { programs: ["iptables"], debianPackage: "iptables", purpose: "keeps sandboxes off the host's loopback", versionArguments: ["--version"], optional: true },
  { programs: ["crun"], debianPackage: "crun", purpose: "runs containers in the guest", versionArguments: ["--version"] },
  { programs: ["busybox"], debianPackage: "busybox-static", purpose: "starts the guest", versionArguments: ["--help"] },
  { programs: ["tini-static"], debianPackage: "tini", purpose: "the first process of sandboxes, and of run --init", versionArguments: ["--version"] },
  { programs: ["ip"], debianPackage: "iproute2", purpose: "sets up the guest's network", versionArguments: ["-V"] },
  { programs: ["sqfstar"], debianPackage: "squashfs-tools", purpose: "makes root file systems of images", versionArguments: ["-version"] },
  { programs: ["mkfs.erofs"], debianPackage: "erofs-utils", purpose: "makes the guest image", versionArguments: ["--version"] },
  { programs: ["mkfs.ext4"], debianPackage: "e2fsprogs", purpose: "makes writable layers", versionArguments: ["-V"] },
  { programs: ["skopeo"], debianPackage: "skopeo", purpose: "pulls images", versionArguments: ["--version"], optional: true },
  { programs: ["depmod"], debianPackage: "kmod", purpose: "prepares the guest's kernel modules", versionArguments: ["--version"] },
  { programs: ["xz"], debianPackage: "xz-utils", purpose: "unpacks the guest's kernel", versionArguments: ["--version"] },
];

/** A guest image with its kernel, one template's worth of room, and some containers. */
const neededDiskBytes = 1024 ** 3;
/** A busy or emulated machine takes seconds to start QEMU; a tool that is only slow is not broken. */
const toolTimeoutMs = 60_000;

/** Looks at everything a run needs. Nothing is changed but for what a first run would make: guest image and accelerator choice. */
export async function checkHost(folders: StateFolders, onProgress: (what: string) => void): Promise<readonly HostCheck[]> {
  const toolChecks = await Promise.all(tools.map(checkTool));
  const { check, image } = await checkGuestImage(folders, onProgress);
  return [
    checkNode(), ...toolChecks, check,
    await checkAccelerator(folders, image, onProgress),
    checkMemory(), checkDisk(folders), checkCgroups(), checkDevice("/dev/net/tun", "bridged networks"), checkDevice("/dev/fuse", "nothing at present"), checkUser(),
  ];
}

/** True when a container can run at all. */
export function canRun(checks: readonly HostCheck[]): boolean {
  return checks.every(({ state }) => state !== "missing");
}

const ok = (name: string, detail: string, code = "ok"): HostCheck => ({ name, state: "ok", code, detail, fix: "" });

function checkNode(): HostCheck {
  return ok("node", `${process.version} at ${process.execPath}`);
}

async function checkTool(tool: Tool): Promise<HostCheck> {
  const [name = ""] = tool.programs.map((program) => program.split("/").at(-1) ?? program);
  const fix = `apt-get install --no-install-recommends ${tool.debianPackage}`;
  for (const program of tool.programs.filter((path) => !path.startsWith("/") || existsSync(path))) {
    try {
      const { stdout, stderr } = await runProcess(program, tool.versionArguments, { timeoutMs: toolTimeoutMs, okExitCodes: [0, 1] });
      return ok(name, `${firstLine(stdout.toString() + stderr)}: ${tool.purpose}`);
    } catch (error) {
      if (RuntimeError.is(error) && error.reason === "tool_missing") continue;
      return { name, state: tool.optional === true ? "degraded" : "missing", code: "tool_broken", detail: describeError(error), fix: `apt-get install --reinstall ${tool.debianPackage}` };
    }
  }
  return { name, state: tool.optional === true ? "degraded" : "missing", code: "tool_missing", detail: `not installed: ${tool.purpose}`, fix };
}

function firstLine(text: string): string {
  return text.trim().split("\n")[0]?.trim() ?? "";
}

async function checkGuestImage(folders: StateFolders, onProgress: (what: string) => void): Promise<{ readonly check: HostCheck; readonly image: GuestImage | undefined }> {
  try {
    const image = await ensureGuestImage(folders, { onProgress });
    verifyGuestImage(image);
    return { check: ok("guest image", `${image.id} with Linux ${image.kernelRelease}`), image };
  } catch (error) {
    const fix = RuntimeError.is(error) ? error.hint ?? "run `casemate check` again when the tools above are there" : "";
    return { check: { name: "guest image", state: "missing", code: (RuntimeError.is(error) && error.reason) || "guest_image_missing", detail: describeError(error), fix }, image: undefined };
  }
}

async function checkAccelerator(folders: StateFolders, image: GuestImage | undefined, onProgress: (what: string) => void): Promise<HostCheck> {
  if (image === undefined) return { name: "accelerator", state: "missing", code: "not_tried", detail: "cannot be tried without a guest image", fix: "see above" };
  try {
    const { accelerator, reason, explanation } = await chooseAccelerator(folders, image, onProgress, { failureHoldsMs: 0 }); // who asks may just have mended it
    if (accelerator === "kvm") return ok("accelerator", explanation, reason);
    const fix = reason === "kvm_permission" ? "usermod -aG kvm $USER, then log in again" : "use a machine whose /dev/kvm works; everything runs without it, slowly";
    return { name: "accelerator", state: "degraded", code: reason, detail: `emulation (TCG): ${explanation}`, fix };
  } catch (error) {
    return { name: "accelerator", state: "missing", code: (RuntimeError.is(error) && error.reason) || "not_tried", detail: describeError(error), fix: RuntimeError.is(error) ? error.hint ?? "" : "" };
  }
}

function checkMemory(): HostCheck {
  const detail = `${mebibytes(freemem())} MiB of ${mebibytes(totalmem())} MiB are free, a sandbox boots with ${mebibytes(bootMemoryBytes)} MiB`;
  return freemem() < bootMemoryBytes ? { name: "memory", state: "degraded", code: "memory_low", detail, fix: "end what else uses memory" } : ok("memory", detail);
}

function checkDisk(folders: StateFolders): HostCheck {
  const { bavail, bsize } = statfsSync(nearest(folders.data));
  const detail = `${mebibytes(bavail * bsize)} MiB are free below ${folders.data}, ${mebibytes(neededDiskBytes)} MiB are needed`;
  return bavail * bsize < neededDiskBytes ? { name: "disk", state: "degraded", code: "disk_low", detail, fix: `free some space, or keep state elsewhere with --root` } : ok("disk", detail);
}

/** The folder itself, or the first one above it that is there. */
function nearest(path: string): string {
  return existsSync(path) ? path : nearest(dirname(path));
}

function checkCgroups(): HostCheck {
  if (existsSync("/sys/fs/cgroup/cgroup.controllers")) return ok("cgroups", "version 2", "cgroup_v2");
  return { name: "cgroups", state: "degraded", code: "cgroup_v1", detail: "version 1: containers are limited in their guest all the same", fix: "boot with systemd.unified_cgroup_hierarchy=1" };
}

function checkDevice(path: string, purpose: string): HostCheck {
  const name = path.split("/").at(-1) ?? path;
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return ok(name, `${path} can be opened (needed for ${purpose})`);
  } catch (error) {
    if (!isErrnoException(error)) throw error;
    return { name, state: "degraded", code: error.code === "ENOENT" ? "device_missing" : "device_permission", detail: `${path} cannot be opened (needed for ${purpose})`, fix: `modprobe ${name}` };
  }
}

function checkUser(): HostCheck {
  if (isRootful()) return ok("user", "root: every sandbox gets a user of its own", "root");
  return { name: "user", state: "degraded", code: "not_root", detail: "an ordinary user: the VM runs as you, and host folders cannot be shared", fix: "run as root for the whole set of features" };
}
