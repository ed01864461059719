import { close, closeSync, fstat, fstatSync, openSync, read, readSync } from "node:fs";
import { promisify } from "node:util";
import { RuntimeError } from "../../shared/base/errors.ts";
import { SyscallError, call, errno } from "../../shared/linux/libc.ts";

const SYS_openat2 = 437;
const O_RDONLY = 0, O_NONBLOCK = 0o4000, O_CLOEXEC = 0o2000000, O_PATH = 0o10000000, O_DIRECTORY = process.arch === "arm64" ? 0o40000 : 0o200000;
/** openat2(2): a symlink, absolute or with "..", ends beneath the root; links of /proc do not work. */
const RESOLVE_NO_MAGICLINKS = 0x02, RESOLVE_IN_ROOT = 0x10;
const fstatAsync = promisify(fstat), readAsync = promisify(read), closeAsync = promisify(close);

const pieceBytes = 1024 * 1024;
/** How much of a file says what it is. */
const headBytes = 4096;

/** A folder that paths chosen by an image are resolved beneath. Close it after use. */
export class RootFolder implements Disposable {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  static open(path: string): RootFolder {
    return new RootFolder(openSync(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }

  /** The content of a regular file beneath the root; undefined when there is none. @throws RuntimeError `invalid_argument` when it is longer. */
  async readFile(path: string, maxBytes: number): Promise<string | undefined> {
    // O_NONBLOCK: the image may have put a FIFO there, whose opening would wait for a writer.
    const fd = this.#openAt(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd === undefined) return undefined;
    try {
      const stat = await fstatAsync(fd);
      if (!stat.isFile()) return undefined;
      const buffer = Buffer.alloc(maxBytes + 1);
      let length = 0;
      for (;;) {
        const { bytesRead } = await readAsync(fd, buffer, length, buffer.length - length, length);
        if (bytesRead === 0) break;
        length += bytesRead;
        if (length > maxBytes) throw new RuntimeError("invalid_argument", `read "${path}" of the image: longer than ${maxBytes} bytes`);
      }
      return buffer.toString("utf8", 0, length);
    } finally {
      await closeAsync(fd);
    }
  }

  /** Reads a regular file beneath the root, so that the kernel has it in memory; returns how it begins. Undefined when there is none. */
  readThrough(path: string, maxBytes: number): Buffer | undefined {
    const fd = this.#openAt(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd === undefined) return undefined;
    try {
      if (!fstatSync(fd).isFile()) return undefined;
      const buffer = Buffer.alloc(pieceBytes);
      const head = Buffer.from(buffer.subarray(0, readSync(fd, buffer, 0, headBytes, 0)));
      for (let read = head.length; read < maxBytes;) {
        const bytes = readSync(fd, buffer, 0, pieceBytes, read);
        if (bytes === 0) break;
        read += bytes;
      }
      return head;
    } finally {
      closeSync(fd);
    }
  }

  /** True when the path leads to a folder beneath the root. */
  hasFolder(path: string): boolean {
    const fd = this.#openAt(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd !== undefined) closeSync(fd);
    return fd !== undefined;
  }

  #openAt(path: string, flags: number): number | undefined {
    try {
      return openBeneath(this.#fd, Buffer.from(path), flags);
    } catch (error) {
      const absent: number[] = [errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO];
      if (error instanceof SyscallError && absent.includes(error.errno)) return undefined;
      throw RuntimeError.wrap(error, `open "${path}" of the image`);
    }
  }
}

/** How often a resolution is tried again that a rename in the folder crossed (openat2(2), EAGAIN). */
const crossedTries = 16;

/**
 * Opens a path beneath a folder: links in it, absolute ones and ".." too, end beneath the folder.
 * @throws SyscallError.
 */
export function openBeneath(rootFd: number, path: Uint8Array, flags: number, mode = 0): number {
  const how = Buffer.alloc(24);
  how.writeBigUInt64LE(BigInt(flags), 0);
  how.writeBigUInt64LE(BigInt(mode), 8);
  how.writeBigUInt64LE(BigInt(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS), 16);
  const terminated = Buffer.concat([path, Buffer.alloc(1)]);
  for (let tries = 1; ; tries++) {
    try {
      return call("long syscall(long, long, const void *, void *, long)", SYS_openat2, rootFd, terminated, how, how.length);
    } catch (error) {
      if (!(error instanceof SyscallError && error.errno === errno.EAGAIN) || tries >= crossedTries) throw error;
    }
  }
}
