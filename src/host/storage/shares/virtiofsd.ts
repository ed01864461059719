import { closeSync, existsSync, fstatSync, openSync, rmSync, statSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { eventually } from "../../../shared/base/deadline.ts";
import { RuntimeError, isErrnoException } from "../../../shared/base/errors.ts";
import { callUnchecked, errno, lastErrno } from "../../../shared/linux/libc.ts";
import { describeExit, startProcess, type ManagedProcess, type ProcessExit } from "../../../shared/linux/run-process.ts";
import { connectUnixFd, listenUnix } from "../../../shared/linux/unix-socket.ts";
import { watchProcess } from "../../../shared/linux/watch-process.ts";
import { readOptional } from "../../../shared/linux/read-optional.ts";
import type { Ledger, ResourceKind } from "../../store/ledger.ts";
import { endTaggedProcesses, taggedEnvironment, type TaggedProcessRecord } from "../../store/tagged-process.ts";
import { virtiofsdArgs, virtiofsdCandidates, type VirtiofsdProgram } from "./virtiofsd-args.ts";

/**
 * With more than eight threads at work, glibc's malloc asks for the number of CPUs (sched_getaffinity), for
 * which virtiofsd's own seccomp filter kills it (Debian's 7.2). With a limit it does not ask.
 */
const calmMalloc = { MALLOC_ARENA_MAX: "4" } as const;
/** Longest time virtiofsd may take to answer; it takes some 20 ms. */
const startTimeoutMs = 10_000;
/** virtiofsd writes nothing late: the host's kernel has all data already. */
const endGraceMs = 500;
/** The guest can make virtiofsd complain; its log is emptied when it is found larger than this. */
const maxLogBytes = 1024 * 1024;
const logCheckMs = 10_000;
const childFd = 3;

/** What a virtiofsd is started from. */
export interface VirtiofsdSpec {
  readonly sandboxId: string;
  /** The sandbox's run folder: socket and log. */
  readonly sandboxFolder: string;
  /** The folder it serves. */
  readonly sharePath: string;
  /** Default: the first that is installed. */
  readonly program?: VirtiofsdProgram;
}

interface VirtiofsdRecord extends TaggedProcessRecord {
  readonly kind: "virtiofsd";
  readonly socketPath: string;
  readonly logPath: string;
}

/** A running virtiofsd. */
export interface Virtiofsd {
  /** Connected vhost-user socket for QEMU; closed by the undo. */
  readonly fd: number;
  readonly process: ManagedProcess;
}

const heldSockets = new Map<string, { readonly fd: number; readonly inode: number }>();

/** The virtiofsd of a sandbox. */
export const virtiofsdKind: ResourceKind<VirtiofsdSpec, VirtiofsdRecord, Virtiofsd> = {
  kind: "virtiofsd",
  plan: ({ sandboxId, sandboxFolder }) => ({
    kind: "virtiofsd", name: "virtiofsd", token: `${sandboxId}/virtiofsd`, identity: undefined,
    socketPath: join(sandboxFolder, "virtiofsd.sock"), logPath: join(sandboxFolder, "virtiofsd.log"),
  }),
  act: async (record, spec, note) => {
    const program = spec.program ?? findVirtiofsd();
    const { process, fd } = await spawnVirtiofsd(record, spec, program);
    heldSockets.set(record.token, { fd, inode: fstatSync(fd).ino });
    note({ ...record, identity: process.identity });
    await untilAnswers(process, fd, record.logPath);
    boundLog(process, record.logPath);
    return { fd, process };
  },
  release: async (record) => {
    closeHeldSocket(record.token);
    await endTaggedProcesses(record, endGraceMs);
    rmSync(record.socketPath, { force: true });
    rmSync(record.logPath, { force: true });
  },
};

/** Watches over the virtiofsd of an owner that has died. Resolves when it has ended. */
export async function adoptVirtiofsd(ledger: Ledger): Promise<ProcessExit> {
  const record = findVirtiofsdRecord(ledger);
  if (record?.identity === undefined) return { exitCode: undefined, signal: undefined };
  const exited = watchProcess(record.identity);
  boundLog({ exited }, record.logPath);
  return exited;
}

/** The ledger's record of a sandbox's virtiofsd. */
export function findVirtiofsdRecord(ledger: Ledger): VirtiofsdRecord | undefined {
  return ledger.find("virtiofsd", "virtiofsd") as VirtiofsdRecord | undefined; // planned above
}

/** The virtiofsd of this host. @throws RuntimeError `not_found` (reason `tool_missing`). */
export function findVirtiofsd(): VirtiofsdProgram {
  const found = virtiofsdCandidates.find(({ path }) => existsSync(path));
  if (found === undefined) throw new RuntimeError("not_found", "find virtiofsd", { reason: "tool_missing", hint: "install it: apt-get install virtiofsd (Debian 12: qemu-system-common)" });
  return found;
}

async function spawnVirtiofsd(record: VirtiofsdRecord, spec: VirtiofsdSpec, program: VirtiofsdProgram): Promise<Virtiofsd> {
  // It wants a listening socket and takes one connection, which is made here; nobody else gets in between.
  const listening = listenUnix(record.socketPath);
  const log = openSync(record.logPath, "a", 0o600);
  try {
    const process = await startProcess(program.path, virtiofsdArgs(program, childFd, spec.sharePath), { env: { ...taggedEnvironment(record.token), ...calmMalloc }, cwd: "/", stdio: ["ignore", log, log, listening] });
    return { process, fd: connectUnixFd(record.socketPath) };
  } finally {
    closeSync(listening);
    closeSync(log);
    rmSync(record.socketPath, { force: true });
  }
}

/** Asks for the features, as QEMU will again: the answer says that the namespaces stand and the folder is served. */
async function untilAnswers(process: ManagedProcess, fd: number, logPath: string): Promise<void> {
  let exit: ProcessExit | undefined;
  void process.exited.then((value) => { exit = value; }); // never rejects
  const getFeatures = Buffer.from([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]); // vhost-user: request 1, version 1, no payload
  if (Number(callUnchecked("long send(int, void *, unsigned long, int)", fd, getFeatures, getFeatures.length, MSG_NOSIGNAL)) !== getFeatures.length) throw startFailure(exit, logPath);
  const answer = Buffer.alloc(getFeatures.length + 8);
  let received = 0;
  await eventually("start virtiofsd", () => {
    if (exit !== undefined) throw startFailure(exit, logPath);
    const count = Number(callUnchecked("long recv(int, void *, unsigned long, int)", fd, answer.subarray(received), answer.length - received, MSG_DONTWAIT));
    if (count === -1 && lastErrno() === errno.EAGAIN) return undefined;
    if (count <= 0) return undefined; // closed: it is about to exit
    received += count;
    return received === answer.length ? true : undefined;
  }, { timeoutMs: startTimeoutMs, intervalMs: 5 });
}
const MSG_DONTWAIT = 0x40, MSG_NOSIGNAL = 0x4000;

function startFailure(exit: ProcessExit | undefined, logPath: string): RuntimeError {
  const lines = readOptional(logPath).slice(-maxLogBytes).split("\n").filter((line) => line.trim() !== "").slice(-3);
  return new RuntimeError("internal", `start virtiofsd: ${exit === undefined ? "does not answer" : describeExit(exit)}: ${lines.join("; ")}`);
}

/** Opened for appending, the log starts over when it is cut. */
function boundLog(process: Pick<ManagedProcess, "exited">, path: string): void {
  const timer = setInterval(() => {
    if ((statSync(path, { throwIfNoEntry: false })?.size ?? 0) > maxLogBytes) truncateSync(path);
  }, logCheckMs);
  timer.unref();
  void process.exited.then(() => clearInterval(timer)); // never rejects
}

function closeHeldSocket(token: string): void {
  const held = heldSockets.get(token);
  heldSockets.delete(token);
  if (held === undefined) return;
  try {
    // Whoever took the descriptor may have closed it, and its number may be another file's by now.
    if (fstatSync(held.fd).ino === held.inode) closeSync(held.fd);
  } catch (error) {
    if (!isErrnoException(error, "EBADF")) throw error;
  }
}
