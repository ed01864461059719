import { closeSync, openSync, rmSync } from "node:fs";
import { connect as netConnect, type OnReadOpts, type Socket } from "node:net";
import { basename, dirname } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { call } from "./libc.ts";

const AF_UNIX = 1, SOCK_STREAM = 1, SOCK_CLOEXEC = 0o2000000;
const O_PATH = 0o10000000, O_DIRECTORY = 0o200000;
/** sizeof(sun_path) less the final NUL; unix(7). */
const maxSocketPathBytes = 107;

/** A path that fits into sockaddr_un and names the same socket for the length of the callback. */
function withShortPath<T>(path: string, use: (shortPath: string) => T): T {
  if (Buffer.byteLength(path) <= maxSocketPathBytes) return use(path);
  const folder = openSync(dirname(path), O_PATH | O_DIRECTORY);
  try {
    return use(`/proc/self/fd/${folder}/${basename(path)}`);
  } finally {
    closeSync(folder);
  }
}

function sockaddr(path: string): Buffer {
  const bytes = Buffer.from(path);
  if (bytes.length > maxSocketPathBytes) throw new RuntimeError("invalid_argument", `socket path "${path}": longer than ${maxSocketPathBytes} bytes`);
  const address = Buffer.alloc(2 + bytes.length + 1);
  address.writeUInt16LE(AF_UNIX, 0);
  bytes.copy(address, 2);
  return address;
}

/** Makes a listening stream socket at that path (an old socket file there is removed) and returns its descriptor, close-on-exec. */
export function listenUnix(path: string): number {
  rmSync(path, { force: true });
  const fd = call("int socket(int, int, int)", AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  try {
    withShortPath(path, (short) => {
      const address = sockaddr(short);
      call("int bind(int, void *, unsigned int)", fd, address, address.length);
    });
    call("int listen(int, int)", fd, 16);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw RuntimeError.wrap(error, `listen on socket "${path}"`);
  }
}

/** Two connected stream sockets, close-on-exec. */
export function socketPair(): [number, number] {
  const pair = Buffer.alloc(8);
  call("int socketpair(int, int, int, void *)", AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
  return [pair.readInt32LE(0), pair.readInt32LE(4)];
}

/** Connects to a stream socket; the path may be longer than sockaddr_un allows. `onread`: where what comes is put, instead of `data` events. */
export async function connectUnix(path: string, onread?: OnReadOpts): Promise<Socket> {
  const folder = Buffer.byteLength(path) <= maxSocketPathBytes ? undefined : openSync(dirname(path), O_PATH | O_DIRECTORY);
  const socket = netConnect({ path: folder === undefined ? path : `/proc/self/fd/${folder}/${basename(path)}`, allowHalfOpen: true, ...(onread && { onread }) });
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    return socket;
  } catch (error) {
    socket.destroy();
    throw RuntimeError.wrap(error, `connect to socket "${path}"`);
  } finally {
    if (folder !== undefined) closeSync(folder);
  }
}

/** Connects to a listening stream socket and returns the bare descriptor, close-on-exec, for handing to another program. */
export function connectUnixFd(path: string): number {
  const fd = call("int socket(int, int, int)", AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  try {
    withShortPath(path, (short) => {
      const address = sockaddr(short);
      call("int connect(int, void *, unsigned int)", fd, address, address.length);
    });
    return fd;
  } catch (error) {
    closeSync(fd);
    throw RuntimeError.wrap(error, `connect to socket "${path}"`);
  }
}
