import { Socket } from "node:net";
import { call } from "../../shared/linux/libc.ts";
import { pollableStream } from "../../shared/linux/pollable-stream.ts";

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

/** A duplex stream over a PTY's master. */
export function terminalStream(fd: number): Socket {
  setNonBlocking(fd);
  return pollableStream(fd);
}
