import { constants, openSync, readFileSync, readdirSync } from "node:fs";
import type { Socket } from "node:net";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { PacketLink } from "../../shared/channel/link.ts";
import { PacketParser, encodeHelloAnswer } from "../../shared/channel/packet.ts";
import { pollEvents, pollNow } from "../../shared/linux/poll.ts";
import { pollableStream } from "../../shared/linux/pollable-stream.ts";
import { DirectWriter } from "./direct-writer.ts";
import { PageReader, pageBytes } from "./page-reader.ts";

/** How often a port without a host is looked at. Short: a restored VM waits for it; a look is one system call. */
const waitForHostMs = 10;
/** After this long without a host (its owner died and nobody came) looking is made rarer. */
const eagerForMs = 10_000;
const lazyWaitForHostMs = 50;
/** Reads in one turn of the event loop, 64 KiB each: a host that floods one port does not keep the other waiting for long. */
const maxReadsATurn = 4;

/** The device node of the virtio port with that name. @throws RuntimeError `not_found`. */
export function findPort(name: string): string {
  const folder = "/sys/class/virtio-ports";
  for (const entry of readFolder(folder)) {
    if (readFileSync(`${folder}/${entry}/name`, "latin1").trim() === name) return `/dev/${entry}`;
  }
  throw new RuntimeError("not_found", `virtio port "${name}"`);
}

function readFolder(path: string): string[] {
  try {
    return readdirSync(path);
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return [];
    throw error;
  }
}

/**
 * The guest's end of one virtio-serial port. Hosts come and go; each one's greeting begins a session
 * with a link of its own, and what was queued for the one before is dropped with its link. Never
 * blocks: a blocking write to a port without a host would freeze the whole agent.
 */
export class GuestPort {
  readonly #path: string;
  readonly #onSession: (link: PacketLink) => void;
  readonly #onHostGone: () => void;
  readonly #onData: () => void;
  readonly #open: typeof openSync;
  readonly #pages = new PageReader();
  #link: PacketLink | undefined;
  #stream: Socket | undefined;

  /** `onHostGone` is called before the port can be seen to be open for the next host, `onData` with each piece of data that comes. `open`: for tests, in which no driver refuses. */
  constructor(path: string, onSession: (link: PacketLink) => void, { onHostGone = () => undefined, onData = () => undefined, open = openSync }: { readonly onHostGone?: () => void; readonly onData?: () => void; readonly open?: typeof openSync } = {}) {
    this.#path = path;
    this.#onSession = onSession;
    this.#onHostGone = onHostGone;
    this.#onData = onData;
    this.#open = open;
    this.#waitForHost(performance.now());
  }

  /** Opens the port as soon as a host is at the other end: before that a read says end of file, and poll says hang-up. */
  #waitForHost(sinceMs: number): void {
    const fd = this.#tryOpen();
    if (fd === undefined) {
      setTimeout(() => this.#waitForHost(sinceMs), waitForHostMs);
      return;
    }
    const look = (): void => {
      if (!hasHost(fd)) {
        setTimeout(look, performance.now() - sinceMs < eagerForMs ? waitForHostMs : lazyWaitForHostMs);
        return;
      }
      this.#serve(fd);
    };
    look();
  }

  /**
   * Undefined while the port is still open: only one open file is allowed, and a program that is being
   * started has our descriptors until its exec has closed them, which is after vfork lets us go on.
   */
  #tryOpen(): number | undefined {
    try {
      return this.#open(this.#path, constants.O_RDWR | constants.O_NONBLOCK);
    } catch (error) {
      if (!isErrnoException(error, "EBUSY")) throw error;
      return undefined;
    }
  }

  #serve(fd: number): void {
    const stream = pollableStream(fd);
    const parser = PacketParser.forGuest();
    this.#stream = stream;
    stream.on("data", (chunk: Buffer) => {
      this.#receive(parser, chunk, stream, fd);
      if (chunk.length === pageBytes) this.#receiveRest(parser, fd, stream);
    });
    stream.on("drain", () => this.#link?.drained());
    stream.on("end", () => stream.destroy()); // the host has gone
    stream.on("error", () => { /* close follows */ });
    stream.on("close", () => {
      this.#endSession();
      this.#onHostGone();
      this.#waitForHost(performance.now());
    });
  }

  /** A full page is rarely the last one. */
  #receiveRest(parser: PacketParser, fd: number, stream: Socket): void {
    for (let reads = 0; reads < maxReadsATurn && !stream.destroyed; reads++) {
      const chunk = this.#pages.take(fd);
      if (chunk === undefined) return;
      this.#receive(parser, chunk, stream, fd);
    }
  }

  #receive(parser: PacketParser, chunk: Buffer, stream: Socket, fd: number): void {
    this.#onData();
    for (const found of parser.push(chunk)) {
      if (found.type === "packet") this.#link?.deliver(found.payload);
      else this.#endSession();
      if (found.type === "session") {
        const writer = new DirectWriter(stream, fd);
        writer.write(encodeHelloAnswer(found.sessionId));
        this.#link = new PacketLink(writer, found.sessionId, true);
        this.#onSession(this.#link);
      }
    }
  }

  #endSession(): void {
    this.#link?.close();
    this.#link = undefined;
  }
}

/** True when a host is at the other end of an open port. */
export function hasHost(fd: number): boolean {
  return (pollNow(fd, pollEvents.IN) & pollEvents.HUP) === 0;
}

