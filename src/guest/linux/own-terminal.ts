import { closeSync } from "node:fs";
import { openPseudoTerminal } from "../../shared/linux/pseudo-terminal.ts";
import type { TerminalSource } from "./terminal-source.ts";

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
    const { master, slavePath } = openPseudoTerminal();
    return new OwnTerminal(master, slavePath);
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
