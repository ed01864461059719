import { closeSync } from "node:fs";
import { call } from "../../shared/linux/libc.ts";
import type { TerminalSource } from "./terminal-source.ts";

const O_RDWR = 2, O_NOCTTY = 0o400, O_CLOEXEC = 0o2000000;

/** A terminal made here, for a process that crun does not start. */
export class OwnTerminal implements TerminalSource {
  /** The process's side, e.g. `/dev/pts/3`. */
  readonly slavePath: string;
  #master: number | undefined;

  private constructor(master: number, slavePath: string) {
    this.#master = master;
    this.slavePath = slavePath;
  }

  static open(): OwnTerminal {
    const master = call("int posix_openpt(int)", O_RDWR | O_NOCTTY | O_CLOEXEC);
    call("int grantpt(int)", master);
    call("int unlockpt(int)", master);
    const name = Buffer.alloc(64);
    call("int ptsname_r(int, void *, unsigned long)", master, name, name.length);
    return new OwnTerminal(master, name.toString("latin1", 0, name.indexOf(0)));
  }

  takeMaster(): number {
    const master = this.#master;
    if (master === undefined) throw new Error("the terminal's master was taken already");
    this.#master = undefined;
    return master;
  }

  [Symbol.dispose](): void {
    if (this.#master !== undefined) closeSync(this.#master);
    this.#master = undefined;
  }
}
