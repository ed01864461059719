import { setTimeout as delay } from "node:timers/promises";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import { kernelRandomBytes } from "../../shared/linux/random.ts";
import type { Logger } from "../../shared/base/log.ts";
import type { OciProcess } from "../../shared/oci/runtime-spec.ts";
import type { Attachment } from "../sandbox/process-io.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import { afterProbe, type HealthCheck, type HealthState } from "../store/health.ts";

/** What a probe told. */
export interface ProbeResult {
  /** -1: it took too long, or could not be run. */
  readonly exitCode: number;
  readonly output: string;
}

/** What a monitor works with. */
export interface HealthMonitorOptions {
  readonly check: HealthCheck;
  readonly startedAtUnixMs: number;
  readonly health: HealthState;
  /** False while the container stands still: it is not asked then. */
  readonly awake: () => boolean;
  readonly probe: () => Promise<ProbeResult>;
  /** Gets the health after each probe; `changed`: it has another status. */
  readonly report: (health: HealthState, changed: boolean) => void;
}

/** Asks for a container's health again and again, until the signal. Never rejects. */
export async function monitorHealth(options: HealthMonitorOptions, signal: AbortSignal): Promise<void> {
  const { check, startedAtUnixMs, awake, probe, report } = options;
  for (let { health } = options; !signal.aborted;) {
    await delay(check.intervalMs, undefined, { signal }).catch(() => undefined);
    if (signal.aborted || !awake()) continue;
    const startUnixMs = Date.now();
    const result = await probe();
    if (signal.aborted) return; // the container has ended under the probe
    const before = health.status;
    health = afterProbe(check, health, { startUnixMs, endUnixMs: Date.now(), ...result }, startedAtUnixMs);
    report(health, health.status !== before);
  }
}

/** What an exec's id begins with that asks for health. */
const probePrefix = "health-";
/** docker keeps that much of what a probe prints. */
const maxOutputBytes = 4_096;
/** Longest start of a probe, and wait for the end of one that was killed. */
const guestCallTimeoutMs = 30_000;
const SIGKILL = 9;

/** True for an exec that asks for health: nobody uses the sandbox by it. */
export function isProbe(execId: string): boolean {
  return execId.startsWith(probePrefix);
}

/** The process that a check runs in a container whose first process is given. */
export function probeProcess({ test: [kind, ...args] }: HealthCheck, first: OciProcess): OciProcess {
  return { ...first, terminal: false, args: kind === "CMD-SHELL" ? ["/bin/sh", "-c", ...args] : args };
}

/** Runs a probe in a container; what keeps it from being run is its output. Never rejects. */
export async function runProbe(sandbox: Sandbox, containerId: string, what: { readonly process: OciProcess; readonly user: string; readonly timeoutMs: number }, log: Logger): Promise<ProbeResult> {
  const execId = `${probePrefix}${kernelRandomBytes(8).toString("hex")}`;
  try {
    const process = sandbox.registerExec({ containerId, execId, process: what.process, user: what.user, io: { terminal: false, stdin: false, log: undefined, holdOutput: true }, terminalSize: undefined, autoRemove: true, ownCgroup: true });
    const output: Uint8Array[] = [];
    let outputBytes = 0;
    const attachment: Attachment = process.io.attach({
      output: (fd, offset, bytes) => {
        const kept = bytes.subarray(0, maxOutputBytes - outputBytes);
        outputBytes += kept.length;
        if (kept.length > 0) output.push(kept);
        attachment.acknowledge(fd, offset + bytes.length);
      },
      outputEnd: () => undefined,
    });
    try {
      await sandbox.startExec(containerId, execId, { timeoutMs: guestCallTimeoutMs });
      const { exitStatus } = await process.wait({ timeoutMs: what.timeoutMs });
      return { exitCode: exitStatus, output: Buffer.concat(output).toString() };
    } catch (error) {
      if (!RuntimeError.is(error, "deadline_exceeded")) throw error;
      await sandbox.kill(containerId, execId, SIGKILL, true, { timeoutMs: guestCallTimeoutMs });
      await process.wait({ timeoutMs: guestCallTimeoutMs });
      return { exitCode: -1, output: `Health check exceeded timeout (${what.timeoutMs / 1000}s)` };
    } finally {
      attachment.detach();
    }
  } catch (error) {
    log.debug("health not asked for", { containerId, error: describeError(error) });
    return { exitCode: -1, output: describeError(error) };
  }
}

/** Ends the probes that an owner which died has left: nobody would look at them. */
export async function endLeftProbes(sandbox: Sandbox, containerId: string, log: Logger): Promise<void> {
  for (const process of sandbox.containers.get(containerId)?.execs.values() ?? []) {
    if (!isProbe(process.execId) || process.state !== "running") continue;
    await sandbox.kill(containerId, process.execId, SIGKILL, true, { timeoutMs: guestCallTimeoutMs }).catch((error: unknown) => log.debug("probe not ended", { error: describeError(error) }));
  }
}
