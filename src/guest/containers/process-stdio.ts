import { closeSync } from "node:fs";
import type { Socket } from "node:net";
import { setTerminalSize } from "../../shared/linux/pseudo-terminal.ts";
import type { Stdio } from "../../shared/protocol/gen/casemate_pb.ts";
import { makePipe, pipeStream, terminalStream } from "../linux/pipes.ts";
import type { TerminalSource } from "../linux/terminal-source.ts";
import type { ChildStdio } from "./crun.ts";
import { InputPump } from "./input-pump.ts";
import { OutputPump } from "./output-pump.ts";
import type { StdioPort, StdioPositions } from "./stdio-port.ts";

/** Bytes a process wrote in all. */
export interface OutputTotals {
  readonly stdoutBytes: number;
  readonly stderrBytes: number;
}

/** Stdio of one process: made before it starts, connected to the data port when it has. */
export class ProcessStdio {
  #stdio: Stdio | undefined;
  readonly #port: StdioPort;
  readonly #source: TerminalSource | undefined;
  /** The process's ends of the pipes; ours to close once it has them. */
  #childEnds: number[] = [];
  #ourEnds: number[] = [];
  readonly childStdio: ChildStdio;
  #outputs: OutputPump[] = [];
  #input: InputPump | undefined;
  #terminal: { readonly fd: number; readonly stream: Socket } | undefined;

  private constructor(stdio: Stdio | undefined, port: StdioPort, source: TerminalSource | undefined) {
    this.#stdio = stdio;
    this.#port = port;
    this.#source = source;
    this.childStdio = stdio === undefined || stdio.terminal ? ["ignore", "ignore", "ignore"] : this.#makePipes(stdio.stdin);
  }

  /** Without `stdio` the process gets /dev/null; `source` only with a terminal. Pipes may be made before their process is known: see {@link belongTo}. */
  static prepare(stdio: Stdio | undefined, port: StdioPort, source: TerminalSource | undefined): ProcessStdio {
    return new ProcessStdio(stdio, port, source);
  }

  /** Whose pipes these are. */
  belongTo(stdio: Stdio): void {
    this.#stdio = stdio;
  }

  get hasTerminal(): boolean { return this.#stdio?.terminal ?? false; }
  get streamId(): number { return this.#stdio?.streamId ?? 0; }
  /** Where a new host goes on with the streams. */
  get positions(): StdioPositions { return this.#port.positions(this.streamId); }

  /** The process exists and has its ends: bytes flow from now on. */
  connect(): void {
    this.#closeChildEnds();
    const stdio = this.#stdio;
    if (stdio === undefined) return;
    if (this.#source !== undefined) this.#connectTerminal(stdio, this.#source);
    else this.#connectPipes(stdio);
    this.#ourEnds = []; // the streams own them now
  }

  /** The process could not be started. */
  abandon(): void {
    this.#closeChildEnds();
    for (const fd of this.#ourEnds) closeSync(fd);
    this.#ourEnds = [];
    this.#source?.[Symbol.dispose]();
    this.#terminal?.stream.destroy();
  }

  /** False when the process has no terminal. */
  resize(rows: number, columns: number): boolean {
    if (this.#terminal === undefined || this.#terminal.stream.destroyed) return false;
    setTerminalSize(this.#terminal.fd, rows, columns);
    return true;
  }

  /** The process reads end of file after what was written before. With a terminal nothing happens, as in docker. */
  closeInput(): void {
    this.#input?.end();
  }

  /** After the process's end: takes what is left of its output. */
  async drain(): Promise<OutputTotals> {
    this.#input?.close();
    if (this.#stdio !== undefined) this.#port.closeInput(this.#stdio.streamId);
    for (const drained of this.#outputs.map((output) => output.drain())) await drained; // side by side; none fails
    // The master is of no use without its process; closing it hangs up what was left behind.
    this.#terminal?.stream.destroy();
    const [stdout, stderr] = this.#outputs;
    return { stdoutBytes: stdout?.bytes ?? 0, stderrBytes: stderr?.bytes ?? 0 };
  }

  /** The host has acknowledged the process's end. */
  forget(): void {
    if (this.#stdio !== undefined) this.#port.forget(this.#stdio.streamId);
  }

  #makePipes(stdin: boolean): ChildStdio {
    const input = stdin ? makePipe() : undefined;
    const [stdoutRead, stdoutWrite] = makePipe();
    const [stderrRead, stderrWrite] = makePipe();
    this.#childEnds = [...(input === undefined ? [] : [input[0]]), stdoutWrite, stderrWrite];
    this.#ourEnds = [stdoutRead, stderrRead, ...(input === undefined ? [] : [input[1]])];
    return [input?.[0] ?? "ignore", stdoutWrite, stderrWrite];
  }

  #connectPipes({ streamId }: Stdio): void {
    const [stdout, stderr, stdin] = this.#ourEnds;
    if (stdout !== undefined) this.#outputs.push(new OutputPump(pipeStream(stdout, "read"), this.#port.openOutput(streamId, 1)));
    if (stderr !== undefined) this.#outputs.push(new OutputPump(pipeStream(stderr, "read"), this.#port.openOutput(streamId, 2)));
    if (stdin !== undefined) this.#input = new InputPump(pipeStream(stdin, "write"), this.#port.openInput(streamId), "close");
  }

  #connectTerminal({ streamId, stdin, terminalSize }: Stdio, source: TerminalSource): void {
    const fd = source.takeMaster();
    source[Symbol.dispose]();
    const stream = terminalStream(fd);
    this.#terminal = { fd, stream };
    if (terminalSize !== undefined && terminalSize.rows > 0) this.resize(terminalSize.rows, terminalSize.columns);
    this.#outputs.push(new OutputPump(stream, this.#port.openOutput(streamId, 1)));
    if (stdin) this.#input = new InputPump(stream, this.#port.openInput(streamId), "keep");
  }

  #closeChildEnds(): void {
    for (const fd of this.#childEnds) closeSync(fd);
    this.#childEnds = [];
  }
}
