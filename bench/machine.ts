import { execFileSync } from "node:child_process";
import { availableParallelism, cpus, release } from "node:os";
import { chooseAccelerator } from "../src/host/assemble.ts";
import { ensureGuestImage } from "../src/host/guest-image/guest-image.ts";
import { stateFolders } from "../src/host/store/paths.ts";
import type { Machine } from "./figures.ts";

/** What this machine is. Tries KVM when nobody has yet. */
export async function describeMachine(): Promise<Machine> {
  const folders = stateFolders(undefined);
  const { accelerator } = await chooseAccelerator(folders, await ensureGuestImage(folders));
  const [qemu = ""] = execFileSync("qemu-system-x86_64", ["--version"], { encoding: "utf8" }).split("\n");
  return { cpu: cpus()[0]?.model ?? "unknown", cores: availableParallelism(), kernel: release(), node: process.version, qemu, accelerator };
}
