import { constants } from "node:os";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { OwnerClient } from "../../host/control/owner-client.ts";
import { lastKnownStatus } from "../../host/containers/end-container.ts";
import type { ContainerRecord } from "../../host/store/container-store.ts";
import type { StateFolders } from "../../host/store/paths.ts";
import { lostExitCode } from "../../host/store/present-status.ts";
import { exitCodes } from "../exit.ts";
import { AttachClient, type AttachEnd } from "../../host/control/attach-client.ts";
import { DetachKeyFilter, defaultDetachKeys } from "./detach-keys.ts";
import { enterRawMode, watchParent } from "./raw-mode.ts";

/** A process of a sandbox, and how this program's streams are connected with it. */
export interface SessionOptions {
  readonly containerId: string;
  readonly execId: string;
  /** The process has a terminal: ours is made raw if it is one. */
  readonly terminal: boolean;
  readonly stdin: boolean;
  /** Undefined: {@link defaultDetachKeys} with a terminal, none without. */
  readonly detachKeys?: Uint8Array;
  /** Signals sent to this program go to the process. */
  readonly forwardSignals: boolean;
  /** Called when output can no longer be lost. */
  readonly start?: () => Promise<unknown>;
  /** What is known of the process when its sandbox has gone without a word. */
  readonly lastKnownEnd?: () => Promise<AttachEnd>;
}

/** Signals that are passed on: all that end or steer a program, as docker's sig-proxy does. */
const forwarded: readonly NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCONT", "SIGTSTP"];

/** Size of the terminal we are on; undefined without one. */
export function terminalSize(): { readonly rows: number; readonly columns: number } | undefined {
  const { stdout, stdin } = process;
  if (stdout.isTTY) return { rows: stdout.rows, columns: stdout.columns };
  return stdin.isTTY ? { rows: 24, columns: 80 } : undefined;
}

/** Refuses `-t` where typing is wanted and nobody can type, with docker's words. */
export function requireTerminal(flags: { readonly tty: boolean; readonly interactive: boolean }): void {
  if (flags.tty && flags.interactive && !process.stdin.isTTY) {
    throw new RuntimeError("failed_precondition", "the input device is not a TTY", { reason: "no_terminal", hint: "leave out -t when input comes from a pipe or a file" });
  }
}

/** Connects this program with a process until one of them leaves. The terminal is as before afterwards, whatever happens. */
export async function runSession(client: OwnerClient, options: SessionOptions): Promise<AttachEnd> {
  const { containerId, execId, terminal } = options;
  const raw = terminal && options.stdin && process.stdin.isTTY;
  const keys = options.detachKeys ?? (terminal ? defaultDetachKeys : undefined);
  const attach = await AttachClient.open(client, { containerId, execId }, {
    stdin: options.stdin ? process.stdin : undefined,
    stdout: process.stdout,
    stderr: process.stderr,
    ...(keys !== undefined && { filter: new DetachKeyFilter(keys) }),
  });
  const undo: (() => void)[] = [];
  try {
    if (options.forwardSignals) undo.push(forwardSignals(client, containerId, execId));
    if (terminal && process.stdout.isTTY) undo.push(followSize(attach));
    if (raw) undo.push(watchParent(() => attach.leave()), await enterRawMode());
    await options.start?.();
    if (terminal) reportSize(attach); // it may have changed while the sandbox started, or since somebody else was attached
    const end = await attach.run().catch((error: unknown) => {
      // The sandbox has gone, or its next owner has found no VM.
      if (options.lastKnownEnd === undefined || !RuntimeError.is(error) || !["no_owner", "vmm_died"].includes(error.reason ?? "")) throw error;
      return options.lastKnownEnd();
    });
    // The process learns of a reader that has gone as it would at the other end of a pipe.
    if (end.type === "output_closed" && options.forwardSignals) await sendSignal(client, containerId, execId, "SIGPIPE");
    return end;
  } finally {
    for (const step of undo.toReversed()) step();
    process.stdin.destroy(); // a read that is under way would keep this program alive
  }
}

function followSize(attach: AttachClient): () => void {
  const report = (): void => reportSize(attach);
  process.stdout.on("resize", report);
  return () => { process.stdout.off("resize", report); };
}

function reportSize(attach: AttachClient): void {
  if (process.stdout.isTTY) attach.resize({ rows: process.stdout.rows, columns: process.stdout.columns });
}

function forwardSignals(client: OwnerClient, containerId: string, execId: string): () => void {
  const handlers = forwarded.map((name) => {
    const send = (): void => void sendSignal(client, containerId, execId, name);
    process.on(name, send);
    return () => { process.off(name, send); };
  });
  return () => { for (const off of handlers) off(); };
}

/** The process may have ended in the meantime; then its end is on the way to us, and a failure is none. */
async function sendSignal(client: OwnerClient, containerId: string, execId: string, name: NodeJS.Signals): Promise<void> {
  await client.task.kill({ id: containerId, execId, signal: constants.signals[name] }).catch(() => undefined);
}

/** The end of a container as far as the disk tells it. */
export async function lastKnownEnd(folders: StateFolders, record: ContainerRecord): Promise<AttachEnd> {
  const status = await lastKnownStatus(folders, record);
  if (status?.status !== "exited" && status?.status !== "restarting") return { type: "exit", exitStatus: lostExitCode, oomKilled: false, reason: "owner_lost", signal: 0 };
  return { type: "exit", exitStatus: status.exitCode, oomKilled: status.oomKilled, reason: status.error, signal: 0 };
}

/** Why a container ended, for people. */
const endReasons: Readonly<Record<string, string>> = {
  vmm_died: "its VM has ended",
  guest_panicked: "its VM panicked",
  guest_reset: "its VM was reset: the kernel in it crashed without a word, or was told to reboot",
  guest_powered_off: "its VM powered off",
  virtiofsd_died: "virtiofsd, which showed it folders of the host, has ended, and its VM was ended with it",
};

/** The exit code this program ends with, after saying on stderr what a bare number cannot. */
export function sessionExitCode(end: AttachEnd, limitOption = "--memory"): number {
  switch (end.type) {
    case "detached":
      return 0;
    case "output_closed":
      return exitCodes.signalBase + constants.signals.SIGPIPE;
    case "exit":
      if (end.reason !== "") process.stderr.write(`casemate: the container did not end by itself: ${endReasons[end.reason] ?? end.reason}\n`);
      else if (end.oomKilled && end.exitStatus === exitCodes.signalBase + constants.signals.SIGKILL) process.stderr.write(`casemate: the kernel killed the process because the container was out of memory; raise ${limitOption}\n`);
      return end.exitStatus;
  }
}
