import { Duplex } from "node:stream";
import { encodePacket, maxPacketBytes, maxPayloadBytes } from "./packet.ts";

/** Something bytes are written to, with node's back-pressure. */
export interface ByteSink {
  write(bytes: Uint8Array): boolean;
}

/** One session on one port: packets both ways until it closes. */
export class PacketLink {
  readonly #sink: ByteSink;
  readonly #sessionId: Uint8Array;
  readonly #scratch: Buffer | undefined;
  readonly #closed = Promise.withResolvers<void>();
  #packetListener: ((payload: Buffer) => void) | undefined;
  #drainListeners: (() => void)[] = [];
  #room = true;
  #open = true;

  /** `sinkCopies`: the sink has no use for the bytes after its write has returned, so that every packet can be made in the same place. */
  constructor(sink: ByteSink, sessionId: Uint8Array, sinkCopies = false) {
    this.#sink = sink;
    this.#sessionId = sessionId;
    if (sinkCopies) this.#scratch = Buffer.allocUnsafeSlow(maxPacketBytes);
  }

  get closed(): Promise<void> { return this.#closed.promise; }
  get open(): boolean { return this.#open; }
  /** False while what was sent has not been taken; wait for the drain before sending more. */
  get hasRoom(): boolean { return this.#room && this.#open; }

  /** Sends one packet; after the close it is dropped, as whatever was in flight was. */
  send(pieces: readonly Uint8Array[]): void {
    if (this.#open) this.#room = this.#sink.write(encodePacket(this.#sessionId, pieces, this.#scratch)) && this.#room;
  }

  /** The one receiver of packets. */
  onPacket(listener: (payload: Buffer) => void): void {
    this.#packetListener = listener;
  }

  onDrain(listener: () => void): void {
    this.#drainListeners.push(listener);
  }

  // Called by whoever reads the port.
  deliver(payload: Buffer): void {
    if (this.#open) this.#packetListener?.(payload);
  }

  drained(): void {
    this.#room = true;
    for (const listener of this.#drainListeners) listener();
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#drainListeners = [];
    this.#closed.resolve();
  }
}

/** A link as a byte stream, for ttRPC. Ends when the session does. */
export function linkAsDuplex(link: PacketLink): Duplex {
  let blocked: (() => void) | undefined;
  const duplex = new Duplex({
    read: () => undefined, // packets are pushed as they come: ttRPC takes every frame at once
    write: (chunk: Buffer, _encoding, done) => {
      for (let at = 0; at < chunk.length; at += maxPayloadBytes) link.send([chunk.subarray(at, at + maxPayloadBytes)]);
      if (link.hasRoom || !link.open) done();
      else blocked = () => done();
    },
    destroy: (error, done) => {
      blocked?.();
      done(error);
    },
  });
  link.onPacket((payload) => { duplex.push(payload); });
  link.onDrain(() => {
    const resume = blocked;
    blocked = undefined;
    resume?.();
  });
  void link.closed.then(() => duplex.destroy());
  return duplex;
}
