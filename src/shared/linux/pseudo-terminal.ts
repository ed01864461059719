import { call } from "./libc.ts";

const O_RDWR = 2, O_NOCTTY = 0o400, O_CLOEXEC = 0o2000000;
const TIOCSWINSZ = 0x5414;

/** A new terminal: the descriptor of the side that works it, and the path of the side that programs are given, e.g. `/dev/pts/3`. */
export interface PseudoTerminal {
  readonly master: number;
  readonly slavePath: string;
}

/** Makes a terminal that is nobody's controlling terminal (pty(7)). @throws SyscallError where there are none. */
export function openPseudoTerminal(): PseudoTerminal {
  const master = call("int posix_openpt(int)", O_RDWR | O_NOCTTY | O_CLOEXEC);
  call("int grantpt(int)", master);
  call("int unlockpt(int)", master);
  const name = Buffer.alloc(64);
  call("int ptsname_r(int, void *, unsigned long)", master, name, name.length);
  return { master, slavePath: name.toString("latin1", 0, name.indexOf(0)) };
}

/** TIOCSWINSZ: sets the terminal's size; the processes in it get SIGWINCH. */
export function setTerminalSize(master: number, rows: number, columns: number): void {
  const size = Buffer.alloc(8);
  size.writeUInt16LE(Math.min(rows, 0xffff), 0);
  size.writeUInt16LE(Math.min(columns, 0xffff), 2);
  call("int ioctl(int, unsigned long, void *)", master, TIOCSWINSZ, size);
}
