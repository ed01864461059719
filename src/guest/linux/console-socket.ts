import { closeSync, rmSync } from "node:fs";
import { RuntimeError } from "../../shared/base/errors.ts";
import { addressOf, call } from "../../shared/linux/libc.ts";
import { listenUnix } from "../../shared/linux/unix-socket.ts";
import { setNonBlocking } from "./pipes.ts";
import type { TerminalSource } from "./terminal-source.ts";

const SOCK_CLOEXEC = 0o2000000, SOL_SOCKET = 1, SCM_RIGHTS = 1, MSG_DONTWAIT = 0x40, MSG_CMSG_CLOEXEC = 0x40000000;

/** Where crun hands over the master of a process's terminal (the OCI runtimes' --console-socket). */
export class ConsoleSocket implements TerminalSource {
  readonly path: string;
  readonly #fd: number;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  static open(path: string): ConsoleSocket {
    const fd = listenUnix(path);
    setNonBlocking(fd);
    return new ConsoleSocket(path, fd);
  }

  /**
   * The terminal's master. To be called after crun has ended well: then it has connected and sent,
   * so nothing here waits. The socket stays outside libuv, which would drop the descriptor.
   */
  takeMaster(): number {
    const connection = call("int accept4(int, void *, void *, int)", this.#fd, null, null, SOCK_CLOEXEC);
    try {
      return receiveDescriptor(connection);
    } finally {
      closeSync(connection);
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
    rmSync(this.path, { force: true });
  }
}

/** One descriptor by SCM_RIGHTS (unix(7)); the layouts are msghdr, iovec and cmsghdr of 64-bit Linux. */
function receiveDescriptor(socket: number): number {
  const text = Buffer.alloc(256);
  const iov = Buffer.alloc(16);
  iov.writeBigUInt64LE(addressOf(text), 0);
  iov.writeBigUInt64LE(BigInt(text.length), 8);
  const control = Buffer.alloc(24);
  const message = Buffer.alloc(56);
  message.writeBigUInt64LE(addressOf(iov), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(addressOf(control), 32);
  message.writeBigUInt64LE(BigInt(control.length), 40);
  call("long recvmsg(int, void *, int)", socket, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  const got = message.readBigUInt64LE(40) >= 20n && control.readInt32LE(8) === SOL_SOCKET && control.readInt32LE(12) === SCM_RIGHTS;
  if (!got) throw new RuntimeError("internal", "receive terminal from crun: no descriptor came");
  return control.readInt32LE(16);
}
