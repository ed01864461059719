import { existsSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { RuntimeError } from "../../shared/base/errors.ts";
import { runProcess } from "../../shared/linux/run-process.ts";
import { packageNode, packageRoot } from "../config/package-root.ts";

/** A file of the host that goes into the guest's root image. */
export interface RootFile {
  /** Absolute path in the guest. */
  readonly target: string;
  readonly source: string;
  readonly mode: number;
}

/** Programs the agent calls, by their name in the guest's /usr/bin. */
const programs = ["crun", "ip", "mkfs.ext4", "resize2fs"] as const;
const searchFolders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"];

/** Modules the agent loads, with what they need: what a guest of ours may be given. */
export const agentModules = [
  "virtio_console", "virtio_scsi", "sd_mod", "virtio_net", "virtio_rng", "virtio_mem", "virtiofs", "overlay", "ext4", "squashfs", "fuse", "9p", "9pnet_virtio",
  "vmgenid", "pvpanic_pci", "tun", "veth", "bridge", "loop",
] as const;
/** Modules the initramfs needs to mount the root image. erofs and ext4 ask the kernel for "crc32c" by name, which modules.dep does not know. */
export const initModules = ["virtio_pci", "virtio_blk", "crc32c_generic", "erofs"] as const;

/** Every file of the host in the root image: Node, the agent, its programs and the libraries they need. */
export async function collectRootFiles(): Promise<RootFile[]> {
  const root = packageRoot();
  const agent = join(root, "dist/agent.js");
  if (!existsSync(agent)) throw new RuntimeError("failed_precondition", `guest agent "${agent}" is missing`, { reason: "not_built", hint: "run `npm run build`" });
  const binaries: RootFile[] = [
    { target: "/usr/bin/node", source: packageNode(), mode: 0o755 },
    ...programs.map((name) => ({ target: `/usr/bin/${name}`, source: findProgram(name), mode: 0o755 })),
  ];
  const koffi = { target: "/usr/lib/casemate/koffi.node", source: koffiAddon(), mode: 0o644 };
  const libraries = await librariesOf([...binaries, koffi].map(({ source }) => source));
  return [
    ...binaries,
    koffi,
    { target: "/usr/lib/casemate/agent.js", source: agent, mode: 0o644 },
    { target: "/usr/bin/busybox", source: findProgram("busybox"), mode: 0o755 },
    { target: "/usr/bin/tini-static", source: findProgram("tini-static"), mode: 0o755 },
    ...libraries,
  ];
}

/** The busybox that starts the guest; it must be a static one, since there is nothing else yet. */
export function findProgram(name: string): string {
  for (const folder of searchFolders) if (existsSync(join(folder, name))) return realpathSync(join(folder, name));
  throw new RuntimeError("not_found", `program "${name}" is missing, it goes into the guest image`, { reason: "tool_missing", hint: "run `casemate check` to see what is missing and how to install it" });
}

function koffiAddon(): string {
  return createRequire(createRequire(import.meta.url).resolve("koffi")).resolve(`@koromix/koffi-linux-${process.arch}/linux_${process.arch}/koffi.node`);
}

/** The shared libraries those files need, as the host's loader finds them, at the same paths in the guest. */
async function librariesOf(files: readonly string[]): Promise<RootFile[]> {
  const found = new Map<string, string>();
  for (const file of files) {
    const { stdout } = await runProcess("ldd", [file], { okExitCodes: [0, 1] }); // 1: not dynamic
    for (const [, path] of stdout.toString().matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)) {
      if (path !== undefined) found.set(path.startsWith("/usr/") ? path : `/usr${path}`, realpathSync(path));
    }
    if (/not found/.test(stdout.toString())) throw new RuntimeError("failed_precondition", `"${file}" needs a library that is missing`, { cause: new Error(stdout.toString().trim()) });
  }
  return [...found].map(([target, source]) => ({ target, source, mode: 0o755 }));
}
