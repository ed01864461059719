import type { Socket } from "node:net";
import { RuntimeError } from "../base/errors.ts";
import { call } from "./libc.ts";

const SOL_SOCKET = 1, SO_PEERCRED = 17;

/** Who is at the other end of a unix socket (unix(7), SO_PEERCRED), as of the time it connected. */
export function peerCredentials(socket: Socket): { readonly pid: number; readonly uid: number; readonly gid: number } {
  // libuv's handle carries the descriptor; net.Socket has no public way to it.
  const fd = (socket as { _handle?: { fd?: unknown } })._handle?.fd;
  if (typeof fd !== "number") throw new RuntimeError("internal", "peer credentials: the socket has no descriptor");
  const credentials = Buffer.alloc(12);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(credentials.length);
  call("int getsockopt(int, int, int, void *, void *)", fd, SOL_SOCKET, SO_PEERCRED, credentials, length);
  return { pid: credentials.readInt32LE(0), uid: credentials.readUInt32LE(4), gid: credentials.readUInt32LE(8) };
}
