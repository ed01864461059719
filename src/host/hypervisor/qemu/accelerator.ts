import { accessSync, constants, existsSync, readFileSync, statSync } from "node:fs";
import { release } from "node:os";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { RuntimeError, isErrnoException } from "../../../shared/base/errors.ts";
import { writeFileAtomic } from "../../../shared/linux/atomic-file.ts";
import { startProcess, terminateGroup } from "../../../shared/linux/run-process.ts";
import { readStateFile } from "../../store/state-file.ts";
import type { StateFolders } from "../../store/paths.ts";
import type { Accelerator } from "../virtual-machine.ts";
import { acceleratorArguments } from "./arguments.ts";
import { findQemu } from "./find-qemu.ts";

/** Which accelerator was chosen, and why. */
export interface AcceleratorChoice {
  readonly version: 1;
  readonly accelerator: Accelerator;
  /** `kvm_works`, `kvm_missing`, `kvm_permission`, `kvm_silent`, `kvm_slow` or `kvm_failed`. */
  readonly reason: string;
  readonly explanation: string;
  /** What the choice was made for; another host kernel, QEMU or CPU makes it void. */
  readonly key: string;
}

/** How KVM is tried. */
export interface ProbeOptions {
  /** Default /dev/kvm. */
  readonly device: string;
  /** A kernel that boots says something within milliseconds; one under a broken KVM never does. Default 5 s. */
  readonly firstByteMs: number;
  /** A slow but live one (nested virtualization) is given this long to reach its first process. Default 60 s. */
  readonly wholeMs: number;
  /** How long it is remembered that QEMU ended at once: the reason may pass (no memory, a broken kernel file, another hypervisor at work). Default 10 minutes. */
  readonly failureHoldsMs: number;
}
const defaultOptions: ProbeOptions = { device: "/dev/kvm", firstByteMs: 5_000, wholeMs: 60_000, failureHoldsMs: 10 * 60_000 };
const marker = "casemate-probe: up";
/** What a program has printed may come after its end; a child of it may keep the other ends open for ever. */
const lastWordsMs = 500;

/** What is booted to try an accelerator: any kernel and initramfs of ours. */
export interface ProbePayload {
  readonly kernelPath: string;
  readonly initramfsPath: string;
}

/**
 * The accelerator to use: KVM if a guest really boots with it, else emulation. Tried once and
 * remembered until the host's kernel, QEMU or CPU changes, a failure of QEMU for a while. Whether the device exists says nothing: some
 * hosts show one that only hangs. @throws RuntimeError `not_found` (reason `tool_missing`) without QEMU.
 */
export async function chooseAccelerator(folders: StateFolders, payload: ProbePayload, onProgress: (what: string) => void = () => undefined, given: Partial<ProbeOptions> = {}): Promise<AcceleratorChoice> {
  const options = { ...defaultOptions, ...given };
  const path = join(folders.data, "accelerator.json");
  const key = hostKey();
  // Looked at every time: the device and its permission come and go, and a look costs nothing.
  const obstacle = kvmObstacle(options.device);
  if (obstacle !== undefined) return { version: 1, key, ...obstacle };
  const remembered = readRemembered(path);
  if (remembered?.key === key && (remembered.reason !== "kvm_failed" || Date.now() - statSync(path).mtimeMs < options.failureHoldsMs)) return remembered;
  onProgress("trying KVM");
  const choice = { version: 1, key, ...await probe(payload, options) } as const;
  writeFileAtomic(path, JSON.stringify(choice, undefined, 1), 0o644);
  return choice;
}

/** A file that another version wrote, or a crash cut short, is as good as none: the answer can be found again. */
function readRemembered(path: string): AcceleratorChoice | undefined {
  try {
    return readStateFile(path) as AcceleratorChoice | undefined; // written by chooseAccelerator alone
  } catch (error) {
    if (RuntimeError.is(error, "data_loss") || RuntimeError.is(error, "failed_precondition")) return undefined;
    throw error;
  }
}

type Verdict = Pick<AcceleratorChoice, "accelerator" | "reason" | "explanation">;
const emulation = (reason: string, explanation: string): Verdict => ({ accelerator: "tcg", reason, explanation });

/** Why KVM need not be tried. */
function kvmObstacle(device: string): Verdict | undefined {
  if (!existsSync(device)) return emulation("kvm_missing", `this host has no ${device}`);
  if (!mayOpen(device)) return emulation("kvm_permission", `no permission on ${device}: add yourself to its group (usually \`usermod -aG kvm USER\`) and log in again`);
  return undefined;
}

function mayOpen(device: string): boolean {
  try {
    accessSync(device, constants.R_OK | constants.W_OK);
    return true;
  } catch (error) {
    if (isErrnoException(error)) return false;
    throw error;
  }
}

/** Boots the payload under KVM and listens to its serial port. */
async function probe(payload: ProbePayload, options: ProbeOptions): Promise<Verdict> {
  const qemu = await startProcess(findQemu(), [
    "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", ...acceleratorArguments("kvm"), "-M", "q35", "-m", "256", "-smp", "1",
    "-kernel", payload.kernelPath, "-initrd", payload.initramfsPath, "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1 cryptomgr.notests casemate.probe=up", "-serial", "stdio",
  ], { stdio: ["ignore", "pipe", "pipe"] });
  const heard = Promise.withResolvers<Verdict>();
  const give = (reason: string, explanation: string): void => heard.resolve(emulation(reason, explanation));
  let text = "";
  let messages = "";
  const silence = setTimeout(() => give("kvm_silent", `a guest under KVM prints nothing within ${options.firstByteMs / 1000} s: this host's KVM cannot boot a kernel`), options.firstByteMs);
  const slowness = setTimeout(() => give("kvm_slow", `a guest under KVM does not boot within ${options.wholeMs / 1000} s`), options.wholeMs);
  qemu.child.stdout?.on("data", (chunk: Buffer) => {
    clearTimeout(silence);
    text = (text + chunk.toString("latin1")).slice(-4096);
    if (text.includes(marker)) heard.resolve({ accelerator: "kvm", reason: "kvm_works", explanation: "a guest boots under KVM" });
  });
  qemu.child.stderr?.on("data", (chunk: Buffer) => { messages = (messages + chunk.toString()).slice(-1000); });
  const allHeard = new Promise((resolve) => { qemu.child.once("close", resolve); });
  void qemu.exited.then(async (exit) => { // neither rejects
    await Promise.race([allHeard, delay(lastWordsMs)]);
    give("kvm_failed", `QEMU ended while trying KVM (exit code ${exit.exitCode ?? exit.signal ?? "unknown"})${messages === "" ? "" : `: ${messages.trim()}`}`);
  });
  try {
    return await heard.promise;
  } finally {
    clearTimeout(silence);
    clearTimeout(slowness);
    // A hung vCPU thread does not mind SIGTERM; the grace is short because nothing is to be saved.
    await terminateGroup(qemu.child, 200);
    // Somebody else may hold the other ends (a wrapper's children): they must not keep us.
    qemu.child.stdout?.destroy();
    qemu.child.stderr?.destroy();
  }
}

/** The host's kernel, its QEMU and its CPU, as a hash: what works with one need not work with another. */
export function hostKey(): string {
  const program = findQemu();
  const { size, mtimeMs } = statSync(program);
  const cpu = readFileSync("/proc/cpuinfo", "latin1").split("\n").filter((line) => /^(model name|flags|microcode|CPU part|Features)/.test(line)).slice(0, 4).join("\n");
  return createHash("sha256").update([release(), program, size, mtimeMs, cpu].join("\n")).digest("hex").slice(0, 32);
}
