import { addressOf, call, callUnchecked, SyscallError } from "../../shared/linux/libc.ts";

const POSIX_SPAWN_SETSIGDEF = 0x04, POSIX_SPAWN_SETSIGMASK = 0x08, POSIX_SPAWN_SETSID = 0x80;
const O_RDWR = 2;
/** glibc's posix_spawn_file_actions_t has 80 bytes and posix_spawnattr_t 336 on every 64-bit machine; sigset_t has 128. */
const fileActionsBytes = 128, attributesBytes = 512, signalSetBytes = 128;
/** 1 to 31 without SIGKILL and SIGSTOP, whose handling nobody can change. */
const allSignals = 0x7fff_ffff & ~(1 << 8) & ~(1 << 18);

/** What a started program gets. */
export interface SpawnOptions {
  /** The whole environment, `NAME=value`. */
  readonly env: readonly string[];
  /** Descriptors 0, 1 and 2: one of ours, or /dev/null. Everything else of ours is close-on-exec. */
  readonly stdio: readonly (number | "ignore")[];
}

/**
 * Starts a program, found by PATH, as leader of a session of its own; returns its pid, whose end is the
 * caller's to wait for. Node's spawn forks: the kernel copies the agent's page tables and takes a fault
 * for every page written afterwards, 10 ms and more under emulation. posix_spawn(3) lends the memory
 * to the child until it executes. @throws SyscallError, ENOENT when there is no such program.
 */
export function spawnProgram(file: string, args: readonly string[], options: SpawnOptions): number {
  const actions = Buffer.alloc(fileActionsBytes), attributes = Buffer.alloc(attributesBytes);
  call("int posix_spawn_file_actions_init(void *)", actions);
  call("int posix_spawnattr_init(void *)", attributes);
  try {
    for (const [target, source] of options.stdio.entries()) addDescriptor(actions, target, source);
    setSignals(attributes);
    const argv = stringArray([file, ...args]), envp = stringArray(options.env);
    const pid = Buffer.alloc(4);
    check("posix_spawnp", callUnchecked("int posix_spawnp(void *, const char *, void *, void *, void *, void *)", pid, file, actions, attributes, argv.pointers, envp.pointers), file);
    argv.keep();
    envp.keep();
    return pid.readInt32LE(0);
  } finally {
    call("int posix_spawn_file_actions_destroy(void *)", actions);
    call("int posix_spawnattr_destroy(void *)", attributes);
  }
}

function addDescriptor(actions: Buffer, target: number, source: number | "ignore"): void {
  const result = source === "ignore"
    ? callUnchecked("int posix_spawn_file_actions_addopen(void *, int, const char *, int, unsigned int)", actions, target, "/dev/null", O_RDWR, 0)
    : callUnchecked("int posix_spawn_file_actions_adddup2(void *, int, int)", actions, source, target);
  check("posix_spawn_file_actions", result);
}

/** Nothing blocked and nothing ignored: Node ignores SIGPIPE, and a program would inherit that. */
function setSignals(attributes: Buffer): void {
  const none = Buffer.alloc(signalSetBytes), all = Buffer.alloc(signalSetBytes);
  all.writeInt32LE(allSignals, 0);
  check("posix_spawnattr_setsigmask", callUnchecked("int posix_spawnattr_setsigmask(void *, void *)", attributes, none));
  check("posix_spawnattr_setsigdefault", callUnchecked("int posix_spawnattr_setsigdefault(void *, void *)", attributes, all));
  check("posix_spawnattr_setflags", callUnchecked("int posix_spawnattr_setflags(void *, short)", attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID));
}

/** A NULL-terminated array of C strings. The strings must live until the call is over: `keep` after it sees to that. */
function stringArray(strings: readonly string[]): { readonly pointers: Buffer; readonly keep: () => number } {
  const bytes = strings.map((text) => Buffer.from(`${text}\0`));
  const pointers = Buffer.alloc((strings.length + 1) * 8);
  for (const [index, piece] of bytes.entries()) pointers.writeBigUInt64LE(addressOf(piece), index * 8);
  return { pointers, keep: () => bytes.length };
}

/** These functions return the error number instead of setting errno. */
function check(name: string, result: number, detail = ""): void {
  if (result !== 0) throw new SyscallError(name, result, detail);
}
