import { closeSync } from "node:fs";
import { Socket } from "node:net";
import { call } from "../../shared/linux/libc.ts";

const O_CLOEXEC = 0o2000000, O_NONBLOCK = 0o4000, F_SETFL = 4;

/** The two ends of a pipe, both close-on-exec: [read end, write end]. */
export function makePipe(): [number, number] {
  const pair = Buffer.alloc(8);
  call("int pipe2(void *, int)", pair, O_CLOEXEC);
  return [pair.readInt32LE(0), pair.readInt32LE(4)];
}

/** Makes reads and writes of this open file return EAGAIN instead of waiting. */
export function setNonBlocking(fd: number): void {
  call("int fcntl(int, int, int)", fd, F_SETFL, O_NONBLOCK);
}

/** A stream over our end of a pipe; closing the stream closes the descriptor. */
export function pipeStream(fd: number, direction: "read" | "write"): Socket {
  return new Socket({ fd, readable: direction === "read", writable: direction === "write" });
}

/** libuv's pipe handle, which polls any descriptor that can be polled (not in Node's types). */
interface PipeHandle {
  open(fd: number): number;
  close(): void;
}

let pipeHandleClass: (new (type: number) => PipeHandle) | undefined;

/**
 * A duplex stream over a PTY's master. net.Socket refuses a terminal by descriptor, and
 * tty.ReadStream writes with blocking calls, so the handle of a pipe is opened on it.
 */
export function terminalStream(fd: number): Socket {
  setNonBlocking(fd);
  pipeHandleClass ??= findPipeHandleClass();
  const handle = new pipeHandleClass(0);
  const result = handle.open(fd);
  if (result !== 0) throw new Error(`open a stream on descriptor ${fd}: libuv error ${result}`);
  // Checked by a unit test: net.Socket takes a handle, an option that is missing from Node's types.
  return new Socket({ handle, readable: true, writable: true } as object);
}

function findPipeHandleClass(): new (type: number) => PipeHandle {
  const [readEnd, writeEnd] = makePipe();
  const probe = new Socket({ fd: readEnd, readable: true, writable: false });
  // `_handle` is Node's own field, the same since Node 0.8; the unit test of this file pins it.
  const { _handle: handle } = probe as unknown as { _handle: PipeHandle };
  probe.destroy();
  closeSync(writeEnd);
  return handle.constructor as new (type: number) => PipeHandle;
}
