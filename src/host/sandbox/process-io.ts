import type { ContainerLogWriter } from "../store/container-log.ts";
import type { OutputReceiver, ProcessStreams, StdinSender } from "../agent-client/process-streams.ts";

/** Output descriptors of a process. */
export type OutputFd = 1 | 2;

/** Somebody who takes a process's output and may send input. */
export interface AttachedClient {
  /** Called in order; must not block. The bytes are the client's until it acknowledges them. */
  output(fd: OutputFd, offset: number, bytes: Uint8Array): void;
  /** No more output on that descriptor; `offset` is the total. */
  outputEnd(fd: OutputFd, offset: number): void;
}

/** The handle an attached client talks back through. */
export interface Attachment {
  /** The client has taken the bytes up to there; output it has not taken holds the process back. */
  acknowledge(fd: OutputFd, offset: number): void;
  detach(): void;
}

/** The guest is told about progress at least this often, so that its window of 256 KiB never runs dry. */
const acknowledgeEveryBytes = 32 * 1024;

interface Output {
  readonly receiver: OutputReceiver;
  received: number;
  logged: number;
  acknowledged: number;
  ended: boolean;
}

interface Client {
  readonly sink: AttachedClient;
  readonly taken: Map<OutputFd, number>;
}

/** How a process's stdio is kept. */
export interface ProcessIoOptions {
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly log: ContainerLogWriter | undefined;
  /** Without a log: keep output back until the first client attaches, instead of dropping it. */
  readonly holdOutput: boolean;
}

/**
 * Stdio of one process in the owner: output goes to the log and to every attached client, and is
 * acknowledged to the guest when all of them have it, so that the slowest one holds the process back
 * and nothing is kept here beyond the guest's window.
 */
export class ProcessIo {
  readonly #streams: ProcessStreams;
  readonly #log: ContainerLogWriter | undefined;
  readonly #outputs = new Map<OutputFd, Output>();
  readonly #clients = new Set<Client>();
  readonly #stdin: StdinSender | undefined;
  readonly #drained = Promise.withResolvers<void>();
  readonly #fds: readonly OutputFd[];
  #closed = false;

  constructor(streams: ProcessStreams, options: ProcessIoOptions) {
    this.#streams = streams;
    this.#log = options.log;
    this.#fds = options.terminal ? [1] : [1, 2];
    this.#stdin = options.stdin ? streams.openStdin() : undefined;
    // A stream that is not open here stays in the guest, up to its window.
    if (options.log !== undefined || !options.holdOutput) this.#openOutputs();
  }

  /** Resolves when every output stream has ended and all of it was delivered. */
  get drained(): Promise<void> {
    return this.#drained.promise;
  }

  get hasStdin(): boolean {
    return this.#stdin !== undefined;
  }

  /** Adds a client. It gets what comes from now on, and what nobody had taken before. */
  attach(sink: AttachedClient): Attachment {
    this.#openOutputs();
    const client: Client = { sink, taken: new Map([...this.#outputs].map(([fd, output]) => [fd, output.received])) };
    this.#clients.add(client);
    for (const [fd, output] of this.#outputs) if (output.ended) sink.outputEnd(fd, output.received);
    this.#acknowledgeAll();
    return {
      acknowledge: (fd, offset) => {
        const received = this.#outputs.get(fd)?.received ?? 0;
        client.taken.set(fd, Math.min(Math.max(offset, client.taken.get(fd) ?? 0), received));
        this.#acknowledge(fd);
      },
      detach: () => {
        this.#clients.delete(client);
        this.#acknowledgeAll();
      },
    };
  }

  /** Sends input; resolves when the process's side has room for more. Input to a process without stdin is dropped, as by a closed pipe. */
  async writeStdin(bytes: Uint8Array): Promise<void> {
    await this.#stdin?.write(bytes);
  }

  /** The process reads end of file after what was sent before. */
  endStdin(): void {
    this.#stdin?.end();
  }

  /** Nothing more will come: the VM is gone, or the guest failed to deliver in time. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
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
    const receiver = this.#streams.openOutput(fd, {
      onBytes: (offset, bytes) => this.#receive(fd, offset, bytes),
      onEnd: () => { const output = this.#outputs.get(fd); if (output !== undefined) this.#end(fd, output); },
    });
    this.#outputs.set(fd, { receiver, received: 0, logged: 0, acknowledged: 0, ended: false });
  }

  #receive(fd: OutputFd, offset: number, bytes: Uint8Array): void {
    const output = this.#outputs.get(fd);
    if (output === undefined || output.ended) return;
    const end = offset + bytes.length;
    output.received = end;
    for (const { sink } of this.#clients) sink.output(fd, offset, bytes);
    if (this.#log === undefined) {
      output.logged = end;
      this.#acknowledge(fd);
      return;
    }
    void this.#log.append({ fd, offset, unixNanos: BigInt(Date.now()) * 1_000_000n, bytes }).then(() => {
      output.logged = end; // append never rejects: a full disk is remembered in log.failure
      this.#acknowledge(fd);
    });
  }

  #end(fd: OutputFd, output: Output): void {
    if (output.ended) return;
    output.ended = true;
    for (const { sink } of this.#clients) sink.outputEnd(fd, output.received);
    this.#acknowledge(fd);
    if ([...this.#outputs.values()].every(({ ended }) => ended)) this.#drained.resolve();
  }

  #acknowledgeAll(): void {
    for (const fd of this.#outputs.keys()) this.#acknowledge(fd);
  }

  #acknowledge(fd: OutputFd): void {
    const output = this.#outputs.get(fd);
    if (output === undefined) return;
    const taken = Math.min(output.logged, ...[...this.#clients].map((client) => client.taken.get(fd) ?? 0));
    if (taken - output.acknowledged < acknowledgeEveryBytes && !(output.ended && taken > output.acknowledged)) return;
    output.acknowledged = taken;
    output.receiver.acknowledge(taken);
  }
}
