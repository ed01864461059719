import { readLogRun, type ContainerLogWriter } from "../store/container-log.ts";
import type { SavedIo } from "../store/saved-records.ts";
import type { OutputReceiver, ProcessStreams, StdinSender } from "../agent-client/process-streams.ts";

/** Output descriptors of a process. */
export type OutputFd = 1 | 2;

/** By descriptor: a position in the stream, in bytes since the process began. */
export type OutputOffsets = ReadonlyMap<OutputFd, number>;

/** Somebody who takes a process's output and may send input. */
export interface AttachedClient {
  /** Called in order; must not block. The bytes are the client's until it acknowledges them. */
  output(fd: OutputFd, offset: number, bytes: Uint8Array): void;
  /** No more output on that descriptor; `offset` is the total. */
  outputEnd(fd: OutputFd, offset: number): void;
}

/** The handle an attached client talks back through. */
export interface Attachment {
  /** Where its output begins. */
  readonly from: OutputOffsets;
  /** Resolves when the client has been sent what it had missed, or has gone. */
  readonly level: Promise<void>;
  /** The client has taken the bytes up to there; output it has not taken holds the process back. */
  acknowledge(fd: OutputFd, offset: number): void;
  detach(): void;
}

/** The guest is told about progress at least this often, so that its window of 256 KiB never runs dry. */
const acknowledgeEveryBytes = 32 * 1024;
/** How far a client that catches up is fed ahead of what it has taken. */
const catchUpWindowBytes = 256 * 1024;
/** How long the output of a process without a log is kept back for a client whose owner has died; clients come back within 2 s. */
const comeBackMs = 20_000;

interface Output {
  readonly receiver: OutputReceiver;
  received: number;
  /** The log holds everything before this; without a log, the same as `received`. */
  logged: number;
  acknowledged: number;
  ended: boolean;
}

interface Client {
  readonly sink: AttachedClient;
  readonly sent: Map<OutputFd, number>;
  readonly taken: Map<OutputFd, number>;
  /** Gets output as it comes; before that, what it missed is read from the log. */
  live: boolean;
  gone: boolean;
  onTaken: () => void;
}

/** How a process's stdio is kept. */
export interface ProcessIoOptions {
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly log: ContainerLogWriter | undefined;
  /** Without a log: keep output back until the first client attaches, instead of dropping it. */
  readonly holdOutput: boolean;
}

/** What of these options a new owner needs. */
export function saveIo({ terminal, stdin, log, holdOutput }: ProcessIoOptions): SavedIo {
  return { terminal, stdin, holdOutput, logPath: log?.path ?? "" };
}

/** Where the stdio of a process goes on whose owner has died. */
export interface StdioResume {
  /** The guest has everything from here on. */
  readonly acknowledged: OutputOffsets;
  /** The log has everything up to here. */
  readonly logged: OutputOffsets;
  /** The guest has received that much input. */
  readonly stdinOffset: number;
  /** The process has ended and everything was delivered: nothing more comes, and the log still has it. */
  readonly over: boolean;
}

const fromTheStart: StdioResume = { acknowledged: new Map(), logged: new Map(), stdinOffset: 0, over: false };
/** The guest's end of a stream that is over. */
const noReceiver: OutputReceiver = { acknowledge: () => undefined, close: () => undefined };

/**
 * Stdio of one process in the owner: output goes to the log and to every attached client, and is
 * acknowledged to the guest when all of them have it, so that the slowest one holds the process back
 * and nothing is kept here beyond the guest's window.
 */
export class ProcessIo {
  readonly #streams: ProcessStreams;
  readonly #log: ContainerLogWriter | undefined;
  readonly #resume: StdioResume;
  readonly #outputs = new Map<OutputFd, Output>();
  readonly #clients = new Set<Client>();
  readonly #stdin: StdinSender | undefined;
  readonly #stdinListeners = new Set<(offset: number) => void>();
  readonly #drained = Promise.withResolvers<void>();
  readonly #fds: readonly OutputFd[];
  #comeBack: NodeJS.Timeout | undefined;
  #progress = 0;
  #closed = false;

  constructor(streams: ProcessStreams, options: ProcessIoOptions, resume: StdioResume = fromTheStart) {
    this.#streams = streams;
    this.#log = options.log;
    this.#resume = resume;
    this.#fds = options.terminal ? [1] : [1, 2];
    this.#stdin = options.stdin && !resume.over ? streams.openStdin(resume.stdinOffset, (offset) => this.#stdinTaken(offset)) : undefined;
    // A stream that is not open here stays in the guest, up to its window.
    if (resume.over) this.#openEnded();
    else if (options.log !== undefined || !options.holdOutput) this.#openOutputs();
    else if (resume !== fromTheStart) this.#comeBack = setTimeout(() => this.#openOutputs(), comeBackMs);
  }

  /** Resolves when every output stream has ended and all of it is in the log, or without a log with those who are attached. */
  get drained(): Promise<void> {
    return this.#drained.promise;
  }

  /** Counts what moves; while it stands still nobody sends or takes anything. */
  get progress(): number {
    return this.#progress;
  }

  /** How much of its output has come. */
  get received(): OutputOffsets {
    return new Map([...this.#outputs].map(([fd, { received }]) => [fd, received]));
  }

  get hasStdin(): boolean {
    return this.#stdin !== undefined;
  }

  /** Where the input of somebody who attaches now begins. */
  get stdinOffset(): number {
    return this.#stdin?.written ?? 0;
  }

  /**
   * Adds a client. It gets what comes from now on, and what nobody had taken before; with `resume`,
   * everything from there on: what has passed meanwhile is read from the log.
   */
  attach(sink: AttachedClient, resume?: OutputOffsets): Attachment {
    clearTimeout(this.#comeBack);
    this.#openOutputs();
    const from = new Map([...this.#outputs].map(([fd, output]) => [fd, resume?.get(fd) ?? output.received]));
    const client: Client = { sink, sent: new Map(from), taken: new Map(from), live: false, gone: false, onTaken: () => undefined };
    this.#clients.add(client);
    const level = this.#isLevel(client) ? Promise.resolve() : this.#catchUp(client);
    if (this.#isLevel(client)) this.#goLive(client);
    return {
      from,
      level,
      acknowledge: (fd, offset) => {
        this.#progress++;
        client.taken.set(fd, Math.min(Math.max(offset, client.taken.get(fd) ?? 0), client.sent.get(fd) ?? 0));
        client.onTaken();
        this.#acknowledge(fd);
      },
      detach: () => {
        client.gone = true;
        client.onTaken();
        this.#clients.delete(client);
        this.#acknowledgeAll();
      },
    };
  }

  /** Sends input; resolves when there is room for more. Input to a process without stdin is dropped, as by a closed pipe. */
  async writeStdin(bytes: Uint8Array): Promise<void> {
    if (!this.#closed) await this.#stdin?.write(bytes);
  }

  /** Calls back whenever the process's pipe has taken input up to an offset, until the returned function is called. */
  onStdinTaken(listener: (offset: number) => void): () => void {
    this.#stdinListeners.add(listener);
    return () => { this.#stdinListeners.delete(listener); };
  }

  /** The process reads end of file after what was sent before. */
  endStdin(): void {
    this.#stdin?.end();
  }

  /** Nothing more will come: the VM is gone, or the guest failed to deliver in time. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#comeBack);
    for (const [fd, output] of this.#outputs) {
      output.receiver.close();
      this.#end(fd, output);
    }
    this.#stdin?.close();
    this.#streams.close();
    await this.#log?.close();
  }

  #openOutputs(): void {
    if (this.#outputs.size === 0 && !this.#closed) for (const fd of this.#fds) this.#openOutput(fd);
  }

  #openOutput(fd: OutputFd): void {
    const start = this.#resume.acknowledged.get(fd) ?? 0;
    // Entered first: the guest may be quicker than this call.
    const receiver = this.#streams.openOutput(fd, {
      onBytes: (offset, bytes) => this.#receive(fd, offset, bytes),
      onEnd: () => { const output = this.#outputs.get(fd); if (output !== undefined) this.#end(fd, output); },
    }, start);
    this.#outputs.set(fd, { receiver, received: start, logged: Math.max(start, this.#resume.logged.get(fd) ?? 0), acknowledged: start, ended: false });
  }

  #openEnded(): void {
    for (const fd of this.#fds) {
      const total = this.#resume.logged.get(fd) ?? 0;
      this.#outputs.set(fd, { receiver: noReceiver, received: total, logged: total, acknowledged: total, ended: true });
    }
    this.#closed = true;
    this.#drained.resolve();
  }

  #receive(fd: OutputFd, offset: number, bytes: Uint8Array): void {
    const output = this.#outputs.get(fd);
    if (output === undefined || output.ended) return;
    this.#progress++;
    const end = offset + bytes.length;
    output.received = end;
    for (const client of this.#clients) if (client.live) hand(client, fd, offset, bytes);
    if (this.#log === undefined) {
      output.logged = end;
      this.#acknowledge(fd);
      return;
    }
    // What the log has from the owner before is not written again.
    const known = this.#resume.logged.get(fd) ?? 0;
    if (end <= known) return this.#acknowledge(fd);
    const fresh = offset < known ? bytes.subarray(known - offset) : bytes;
    void this.#log.append({ fd, offset: end - fresh.length, unixNanos: BigInt(Date.now()) * 1_000_000n, bytes: fresh }).then(() => {
      output.logged = end; // append never rejects: a full disk is remembered in log.failure
      this.#acknowledge(fd);
    });
  }

  #end(fd: OutputFd, output: Output): void {
    if (output.ended) return;
    output.ended = true;
    for (const client of this.#clients) if (client.live) client.sink.outputEnd(fd, output.received);
    this.#acknowledge(fd);
  }

  #stdinTaken(offset: number): void {
    this.#progress++;
    for (const listener of this.#stdinListeners) listener(offset);
  }

  #isLevel(client: Client): boolean {
    return [...this.#outputs].every(([fd, output]) => (client.sent.get(fd) ?? 0) >= output.received);
  }

  #goLive(client: Client): void {
    client.live = true;
    for (const [fd, output] of this.#outputs) if (output.ended) client.sink.outputEnd(fd, output.received);
    this.#acknowledgeAll();
  }

  /** Feeds a client from the log until it has what the others have. Each pass reads the log once; what came meanwhile is left for the next. */
  async #catchUp(client: Client): Promise<void> {
    while (this.#log !== undefined && !client.gone && !this.#isLevel(client)) {
      await this.#log.flushed();
      const before = sum(client.sent);
      for (const { fd, offset, bytes } of readLogRun(this.#log.path, this.#log.runId)) {
        if (fd !== 1 && fd !== 2) continue;
        hand(client, fd, offset, bytes);
        while (!client.gone && sum(client.sent) - sum(client.taken) > catchUpWindowBytes) await new Promise<void>((resolve) => { client.onTaken = resolve; });
        if (client.gone) return;
      }
      if (sum(client.sent) === before) break; // the log lacks it: rotated away, or a disk that was full
    }
    if (!client.gone) this.#goLive(client);
  }

  #acknowledgeAll(): void {
    for (const fd of this.#outputs.keys()) this.#acknowledge(fd);
  }

  #acknowledge(fd: OutputFd): void {
    const output = this.#outputs.get(fd);
    if (output === undefined) return;
    const taken = Math.min(output.logged, output.received, ...[...this.#clients].map((client) => client.taken.get(fd) ?? 0));
    if (taken - output.acknowledged >= acknowledgeEveryBytes || (output.ended && taken > output.acknowledged)) {
      output.acknowledged = taken;
      output.receiver.acknowledge(taken);
    }
    this.#considerDrained();
  }

  #considerDrained(): void {
    // With a log, whoever lags behind is served from it.
    const kept = ({ received, logged, acknowledged, ended }: Output): boolean => ended && logged >= received && (this.#log !== undefined || acknowledged >= received);
    if (this.#outputs.size > 0 && [...this.#outputs.values()].every(kept)) this.#drained.resolve();
  }
}

/** Sends a client what it does not have yet. */
function hand(client: Client, fd: OutputFd, offset: number, bytes: Uint8Array): void {
  const sent = client.sent.get(fd) ?? 0;
  const end = offset + bytes.length;
  if (end <= sent) return;
  const fresh = offset < sent ? bytes.subarray(sent - offset) : bytes;
  client.sent.set(fd, end);
  client.sink.output(fd, end - fresh.length, fresh);
}

function sum(offsets: OutputOffsets): number {
  return [...offsets.values()].reduce((total, offset) => total + offset, 0);
}
