import { call } from "./libc.ts";

/** What poll(2) can say of a descriptor (asm-generic/poll.h; the same on x86_64 and arm64). */
export const pollEvents = { IN: 0x1, ERR: 0x8, HUP: 0x10 } as const;

/** What poll(2) says of a descriptor now, without waiting: bits of {@link pollEvents}. ERR and HUP are told unasked. */
export function pollNow(fd: number, wanted = 0): number {
  const request = Buffer.alloc(8); // struct pollfd: int fd, short events, short revents
  request.writeInt32LE(fd, 0);
  request.writeInt16LE(wanted, 4);
  call("int poll(void *, unsigned long, int)", request, 1, 0);
  return request.readInt16LE(6);
}

/** True when nobody can read any more what is written to a pipe, socket or terminal. */
export function readerIsGone(fd: number): boolean {
  return (pollNow(fd) & (pollEvents.ERR | pollEvents.HUP)) !== 0;
}
