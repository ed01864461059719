import type { Socket } from "node:net";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { addressOf, callUnchecked, errno, lastErrno } from "../../src/shared/linux/libc.ts";

const SOL_SOCKET = 1, SCM_RIGHTS = 1, MSG_DONTWAIT = 0x40, MSG_CMSG_CLOEXEC = 0x40000000;
const maxBytes = 64 * 1024, maxControlBytes = 256;
/** Node can wait for bytes only by reading them, which would lose the descriptors beside them. */
const lookEveryMs = 1;

/**
 * Reads a unix socket with the descriptors that come beside the bytes (unix(7), SCM_RIGHTS). The
 * socket must be paused from its beginning (`pauseOnConnect`). Ends by itself with the connection.
 */
export function receiveDescriptors(socket: Socket, onBytes: (bytes: Buffer, fds: readonly number[]) => void, onEnd: () => void): void {
  const timer = setInterval(() => {
    for (;;) {
      const received = socket.destroyed ? "end" : receive(socket);
      if (received === "nothing") return;
      if (received === "end") {
        clearInterval(timer);
        onEnd();
        return;
      }
      onBytes(received.bytes, received.fds);
    }
  }, lookEveryMs);
  timer.unref();
}

function receive(socket: Socket): { readonly bytes: Buffer; readonly fds: readonly number[] } | "nothing" | "end" {
  const fd = (socket as { _handle?: { fd?: unknown } })._handle?.fd; // libuv's handle; net.Socket has no public way to its descriptor
  if (typeof fd !== "number") return "end";
  const bytes = Buffer.alloc(maxBytes), control = Buffer.alloc(maxControlBytes), iovec = Buffer.alloc(16), message = Buffer.alloc(56);
  iovec.writeBigUInt64LE(addressOf(bytes), 0);
  iovec.writeBigUInt64LE(BigInt(bytes.length), 8);
  message.writeBigUInt64LE(addressOf(iovec), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(addressOf(control), 32);
  message.writeBigUInt64LE(BigInt(control.length), 40);
  const length = Number(callUnchecked("long recvmsg(int, void *, int)", fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
  if (length > 0) return { bytes: bytes.subarray(0, length), fds: descriptorsIn(control.subarray(0, Number(message.readBigUInt64LE(40)))) };
  if (length === 0) return "end";
  const failure = lastErrno();
  if (failure === errno.EAGAIN) return "nothing";
  if (failure === 104) return "end"; // ECONNRESET: the other side left with bytes unread
  throw new RuntimeError("internal", `recvmsg: errno ${failure}`);
}

/** struct cmsghdr: length (8 bytes), level, type, then the descriptors; each message is padded to 8 bytes. */
function descriptorsIn(control: Buffer): number[] {
  const fds: number[] = [];
  for (let at = 0; at + 16 <= control.length;) {
    const length = Number(control.readBigUInt64LE(at));
    if (control.readInt32LE(at + 8) === SOL_SOCKET && control.readInt32LE(at + 12) === SCM_RIGHTS) {
      for (let fd = at + 16; fd + 4 <= at + length; fd += 4) fds.push(control.readInt32LE(fd));
    }
    at += Math.max(16, Math.ceil(length / 8) * 8);
  }
  return fds;
}
