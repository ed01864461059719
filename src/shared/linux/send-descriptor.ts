import type { Socket } from "node:net";
import { RuntimeError } from "../base/errors.ts";
import { addressOf, call } from "./libc.ts";

const SOL_SOCKET = 1, SCM_RIGHTS = 1, MSG_NOSIGNAL = 0x4000;

/**
 * Sends bytes on a connected unix socket with an open descriptor beside them (unix(7), SCM_RIGHTS). The
 * call goes to the socket directly, so nothing may wait in the stream's own queue.
 */
export function sendDescriptor(socket: Socket, bytes: Buffer, fd: number): void {
  if (socket.writableLength > 0) throw new RuntimeError("unavailable", "send a descriptor: earlier bytes are still queued");
  // libuv's handle carries the descriptor; net.Socket has no public way to it.
  const socketFd = (socket as { _handle?: { fd?: unknown } })._handle?.fd;
  if (typeof socketFd !== "number") throw new RuntimeError("unavailable", "send a descriptor: the socket is closed");
  const iovec = Buffer.alloc(16);
  iovec.writeBigUInt64LE(addressOf(bytes), 0);
  iovec.writeBigUInt64LE(BigInt(bytes.length), 8);
  const control = Buffer.alloc(24); // struct cmsghdr (16 bytes) and one int, padded
  control.writeBigUInt64LE(20n, 0);
  control.writeInt32LE(SOL_SOCKET, 8);
  control.writeInt32LE(SCM_RIGHTS, 12);
  control.writeInt32LE(fd, 16);
  const message = Buffer.alloc(56); // struct msghdr
  message.writeBigUInt64LE(addressOf(iovec), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(addressOf(control), 32);
  message.writeBigUInt64LE(BigInt(control.length), 40);
  const sent = call("long sendmsg(int, void *, int)", socketFd, message, MSG_NOSIGNAL);
  if (Number(sent) !== bytes.length) throw new RuntimeError("unavailable", `send a descriptor: ${sent} of ${bytes.length} bytes sent`);
}
