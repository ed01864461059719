import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { RuntimeError, type ErrorCode, codeOf } from "../base/errors.ts";

/**
 * The only file that knows the FFI. koffi's addon is loaded by process.dlopen: 1.2 ms, where
 * require("koffi") costs 8 to 10 (docs/adr/0002). Node's own node:ffi can replace it here.
 */
interface Koffi {
  load(path: string | null): { func(prototype: string): NativeFunction };
  errno(): number;
  address(buffer: Uint8Array): bigint | number;
}

interface NativeFunction {
  (...args: unknown[]): number;
  /** Runs on libuv's thread pool; the last argument is a callback (error, result). */
  async(...args: unknown[]): void;
}

/** Errno numbers the callers tell apart (asm-generic; the same on x86_64 and arm64). */
export const errno = {
  EPERM: 1, ENOENT: 2, ESRCH: 3, EINTR: 4, EIO: 5, ENXIO: 6, EAGAIN: 11, EACCES: 13, EBUSY: 16, EEXIST: 17, EXDEV: 18, ENODEV: 19, ENOTDIR: 20, EISDIR: 21,
  EINVAL: 22, ENOSPC: 28, EROFS: 30, EPIPE: 32, ENAMETOOLONG: 36, ENOSYS: 38, ENOTEMPTY: 39, ELOOP: 40, EADDRINUSE: 98, ECHILD: 10,
} as const;

const names = new Map<number, string>(Object.entries(errno).map(([name, number]) => [number, name]));

/** A failed system call. `code` is the errno's name, as in Node's own errors. */
export class SyscallError extends Error {
  override readonly name = "SyscallError";
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;

  constructor(syscall: string, number: number, detail = "") {
    const code = names.get(number) ?? `E${number}`;
    super(`${syscall}${detail === "" ? "" : ` ${detail}`}: ${code}`);
    this.code = code;
    this.errno = number;
    this.syscall = syscall;
  }
}

let koffi: Koffi | undefined;
let libc: ReturnType<Koffi["load"]> | undefined;
const functions = new Map<string, NativeFunction>();

/** Where the addon is: beside the bundle in the guest image, in node_modules everywhere else. */
function addonPath(): string {
  const beside = fileURLToPath(new URL("koffi.node", import.meta.url));
  if (existsSync(beside)) return beside;
  const arch = process.arch === "arm64" ? "arm64" : "x64";
  return createRequire(import.meta.url).resolve(`@koromix/koffi-linux-${arch}/linux_${arch}/koffi.node`);
}

function loadKoffi(): Koffi {
  if (koffi !== undefined) return koffi;
  const module: { exports: unknown } = { exports: {} };
  try {
    process.dlopen(module, addonPath());
  } catch (error) {
    throw new RuntimeError("failed_precondition", "load the FFI addon koffi.node", { cause: error, hint: "reinstall the package: its dependency koffi is missing or for another CPU" });
  }
  koffi = module.exports as Koffi; // checked by the first call: koffi's addon exports load, errno and address
  return koffi;
}

/** Calls a libc function given by its C prototype; returns its result unchecked. `long` and `int` only: koffi has no ssize_t. */
export function callUnchecked(prototype: string, ...args: unknown[]): number {
  return nativeFunction(prototype)(...args);
}

function nativeFunction(prototype: string): NativeFunction {
  let call = functions.get(prototype);
  if (call === undefined) {
    libc ??= loadKoffi().load(null);
    call = libc.func(prototype);
    functions.set(prototype, call);
  }
  return call;
}

/**
 * As {@link call}, but on a thread of libuv's pool, for calls that may sleep (mounting, syncing). It
 * cannot be cancelled: a call that never returns keeps one of the pool's four threads.
 */
export async function callAsync(prototype: string, ...args: unknown[]): Promise<number> {
  return new Promise((resolve, reject) => {
    nativeFunction(prototype).async(...args, (error: Error | null, result: number) => {
      if (error !== null) reject(error);
      else if (Number(result) !== -1) resolve(result);
      // koffi keeps the errno of an asynchronous call for the length of its callback.
      else reject(new SyscallError(/(\w+)\s*\(/.exec(prototype)?.[1] ?? prototype, lastErrno()));
    });
  });
}

/** Calls a libc function and throws a {@link SyscallError} when it returns -1. EINTR is tried again. */
export function call(prototype: string, ...args: unknown[]): number {
  for (;;) {
    const result = callUnchecked(prototype, ...args);
    if (Number(result) !== -1) return result;
    const number = lastErrno();
    if (number !== errno.EINTR) throw new SyscallError(/(\w+)\s*\(/.exec(prototype)?.[1] ?? prototype, number);
  }
}

/** errno of the last {@link callUnchecked} on this thread; valid only directly after it. */
export function lastErrno(): number {
  return loadKoffi().errno();
}

/** The address of a buffer's first byte, for structs that hold pointers. Keep the buffer referenced while the kernel may use it. */
export function addressOf(buffer: Uint8Array): bigint {
  return BigInt(loadKoffi().address(buffer));
}

/** The RuntimeError for a failed step that made a system call. */
export function syscallFailure(error: unknown, step: string): RuntimeError {
  const code: ErrorCode = codeOf(error);
  return new RuntimeError(code, step, { cause: error });
}
