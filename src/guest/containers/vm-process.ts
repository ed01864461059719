import { constants } from "node:os";
import { RuntimeError } from "../../shared/base/errors.ts";
import { startProcess, type ProcessExit } from "../../shared/linux/run-process.ts";
import type { OciProcess } from "../../shared/oci/runtime-spec.ts";
import type { ExecRequest } from "../../shared/protocol/gen/casemate_pb.ts";
import { cgroupFile, cgroups } from "../cgroup/cgroup-tree.ts";
import { oomKillCount } from "../cgroup/oom-watch.ts";
import type { EventLog } from "../events.ts";
import { OwnTerminal } from "../linux/own-terminal.ts";
import type { ProcessStatus } from "../reaper.ts";
import { parseProcess } from "./container-spec.ts";
import { GuestProcess } from "./guest-process.ts";
import { spawnUnprotected } from "./oom-score.ts";
import { ProcessStdio } from "./process-stdio.ts";
import type { StdioPort } from "./stdio-port.ts";

/**
 * Joins the cgroup before the program runs. A session leader without a controlling terminal gets the
 * first one it opens; the agent's children are session leaders.
 */
const joinScript = 'echo $$ > "$CASEMATE_CGROUP"; tty=$CASEMATE_TTY; unset CASEMATE_CGROUP CASEMATE_TTY; [ -z "$tty" ] || exec 0<>"$tty" 1>&0 2>&0; exec "$@"';

/** Starts a process in the guest itself, as root and outside all containers (`exec --vm`). */
export async function startVmProcess(request: ExecRequest, context: { readonly stdioPort: StdioPort; readonly events: EventLog }): Promise<GuestProcess> {
  const { execId, stdio } = request;
  const process = parseProcess(request.processJson);
  requireRoot(request.user, process);
  const terminal = stdio?.terminal ? OwnTerminal.open() : undefined;
  const processStdio = ProcessStdio.prepare(stdio, context.stdioPort, terminal);
  try {
    const oomKillsBefore = oomKillCount(cgroups.vm);
    const env = { ...environment(process.env ?? []), CASEMATE_CGROUP: cgroupFile(cgroups.vm, "cgroup.procs"), CASEMATE_TTY: terminal?.slavePath ?? "" };
    const child = await spawnUnprotected(() => startProcess("/bin/busybox", ["sh", "-c", joinScript, "sh", ...process.args], { cwd: process.cwd, env, stdio: [...processStdio.childStdio] }));
    processStdio.connect();
    const status = child.exited.then(toStatus);
    return new GuestProcess({ container: undefined, execId, cgroup: cgroups.vm, logFile: undefined }, child.identity.pid, processStdio, status, context.events, oomKillsBefore);
  } catch (error) {
    processStdio.abandon();
    throw RuntimeError.wrap(error, `start process "${execId}" in the guest`);
  }
}

function requireRoot(user: string, process: OciProcess): void {
  if (["", "0", "root", "0:0"].includes(user) && process.user.uid === 0) return;
  throw new RuntimeError("invalid_argument", `run a process in the guest as user "${user}": it runs as root only`, { reason: "user_not_found" });
}

function environment(entries: readonly string[]): Record<string, string> {
  return Object.fromEntries(entries.filter((entry) => entry.includes("=")).map((entry) => [entry.slice(0, entry.indexOf("=")), entry.slice(entry.indexOf("=") + 1)]));
}

function toStatus({ exitCode, signal }: ProcessExit): ProcessStatus {
  const number = signal === undefined ? 0 : constants.signals[signal];
  return { exitStatus: signal === undefined ? exitCode ?? 255 : 128 + number, signal: number, exitedAtUnixNanos: BigInt(Date.now()) * 1_000_000n };
}
