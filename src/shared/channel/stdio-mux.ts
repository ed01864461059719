import type { PacketLink } from "./link.ts";
import { maxPayloadBytes } from "./packet.ts";

/** docs/wire-stdio.md. */
const frameType = { data: 1, end: 2, acknowledge: 3, open: 4 } as const;
const headerBytes = 16;
/** Most bytes of a stream in one packet. */
const maxDataBytes = maxPayloadBytes - headerBytes;
/** How far a sender may be ahead of the acknowledgement. */
export const streamWindowBytes = 256 * 1024;
/** A receiver tells of its progress in steps of this size: each message costs the guest an interrupt, and a quarter of the window keeps the sender going. */
const acknowledgeEveryBytes = streamWindowBytes / 4;

interface Frame { readonly type: number; readonly fd: number; readonly streamId: number; readonly offset: number; readonly bytes: Buffer }

function encodeHeader(type: number, fd: number, streamId: number, offset: number): Buffer {
  const header = Buffer.allocUnsafe(headerBytes);
  header.writeUInt8(type, 0);
  header.writeUInt8(fd, 1);
  header.writeUInt16BE(0, 2);
  header.writeUInt32BE(streamId, 4);
  header.writeUInt32BE(Math.floor(offset / 2 ** 32), 8);
  header.writeUInt32BE(offset % 2 ** 32, 12);
  return header;
}

/** Undefined for a packet that is no stdio frame; the peer may be hostile. */
function decodeFrame(payload: Buffer): Frame | undefined {
  if (payload.length < headerBytes) return undefined;
  const offset = payload.readUInt32BE(8) * 2 ** 32 + payload.readUInt32BE(12);
  if (!Number.isSafeInteger(offset)) return undefined;
  return { type: payload.readUInt8(0), fd: payload.readUInt8(1), streamId: payload.readUInt32BE(4), offset, bytes: payload.subarray(headerBytes) };
}

/** What a receiver is told. */
export interface ReceiverHandlers {
  readonly onBytes: (offset: number, bytes: Uint8Array) => void;
  readonly onEnd: (total: number) => void;
}

/**
 * Streams of bytes over one link at a time. Every byte has an offset; a sender keeps what is not
 * acknowledged and sends it again on the next link, so that a lost link loses and doubles nothing.
 */
export class StdioMux {
  readonly #senders = new Map<string, StreamSender>();
  readonly #receivers = new Map<string, StreamReceiver>();
  /** Senders in the order they get their turn. */
  #turns: StreamSender[] = [];
  #link: PacketLink | undefined;

  /** Goes on over a new link; the old one is forgotten. */
  attach(link: PacketLink): void {
    this.#link = link;
    link.onPacket((payload) => { if (this.#link === link) this.#receive(payload); });
    link.onDrain(() => this.#pump());
    for (const receiver of this.#receivers.values()) receiver.announce();
    for (const sender of this.#senders.values()) sender.rewind(sender.acknowledged);
    this.#pump();
  }

  /** Opens a stream we send, from that offset on. Nothing is sent twice unless the peer asks for it. */
  openSender(streamId: number, fd: number, startOffset = 0, onAcknowledged: (offset: number) => void = () => undefined): StreamSender {
    const key = keyOf(streamId, fd);
    const sender = new StreamSender(startOffset, {
      acknowledged: onAcknowledged,
      data: (offset, pieces) => this.#link?.send([encodeHeader(frameType.data, fd, streamId, offset), ...pieces]),
      end: (total) => this.#link?.send([encodeHeader(frameType.end, fd, streamId, total)]),
      wake: () => this.#pump(),
      forget: () => {
        this.#senders.delete(key);
        this.#turns = this.#turns.filter((other) => other !== sender);
      },
    });
    this.#senders.set(key, sender);
    this.#turns.push(sender);
    return sender;
  }

  /** Opens a stream the peer sends, from that offset on. */
  openReceiver(streamId: number, fd: number, handlers: ReceiverHandlers, startOffset = 0): StreamReceiver {
    const key = keyOf(streamId, fd);
    const receiver = new StreamReceiver(startOffset, handlers, {
      acknowledge: (offset) => this.#link?.send([encodeHeader(frameType.acknowledge, fd, streamId, offset)]),
      open: (offset) => this.#link?.send([encodeHeader(frameType.open, fd, streamId, offset)]),
      forget: () => this.#receivers.delete(key),
    });
    this.#receivers.set(key, receiver);
    receiver.announce();
    return receiver;
  }

  #receive(payload: Buffer): void {
    const frame = decodeFrame(payload);
    if (frame === undefined) return;
    const key = keyOf(frame.streamId, frame.fd);
    // Frames of streams that are not open here are dropped: the opener will ask for them.
    switch (frame.type) {
      case frameType.data:
        this.#receivers.get(key)?.data(frame.offset, frame.bytes);
        break;
      case frameType.end:
        this.#receivers.get(key)?.end(frame.offset);
        break;
      case frameType.acknowledge:
        this.#senders.get(key)?.acknowledge(frame.offset);
        this.#pump();
        break;
      case frameType.open:
        this.#senders.get(key)?.rewind(frame.offset);
        this.#pump();
        break;
      default: // a newer peer's
    }
  }

  /** One packet for each sender that has something, again and again while there is room: a busy stream starves no other. */
  #pump(): void {
    let idle = 0;
    while (this.#link?.hasRoom === true && idle < this.#turns.length) {
      const sender = this.#turns.shift();
      if (sender === undefined) return;
      this.#turns.push(sender);
      idle = sender.sendOne() ? 0 : idle + 1;
    }
  }
}

function keyOf(streamId: number, fd: number): string {
  return `${streamId}/${fd}`;
}

interface SenderActions {
  readonly acknowledged: (offset: number) => void;
  readonly data: (offset: number, pieces: readonly Uint8Array[]) => void;
  readonly end: (total: number) => void;
  readonly wake: () => void;
  readonly forget: () => void;
}

/** A stream we send. */
export class StreamSender {
  readonly #actions: SenderActions;
  /** Bytes from `#acknowledged` on. */
  #chunks: Uint8Array[] = [];
  #acknowledged: number;
  #sent: number;
  #written: number;
  #ended = false;
  #endSent = false;
  #closed = false;
  #room: PromiseWithResolvers<void> | undefined;

  constructor(startOffset: number, actions: SenderActions) {
    this.#actions = actions;
    this.#acknowledged = this.#sent = this.#written = startOffset;
  }

  /** Everything before this offset has arrived for good. */
  get acknowledged(): number { return this.#acknowledged; }
  /** Bytes written so far. */
  get written(): number { return this.#written; }
  /** True while more may be written without going above the window. */
  get hasRoom(): boolean { return this.#written - this.#acknowledged < streamWindowBytes; }

  /** Takes the bytes (they must not change afterwards); resolves when there is room for more, or the stream is closed. */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.#closed || bytes.length === 0) return;
    this.#chunks.push(bytes);
    this.#written += bytes.length;
    this.#actions.wake();
    if (this.hasRoom) return;
    this.#room ??= Promise.withResolvers<void>();
    await this.#room.promise;
  }

  /** No more bytes. */
  end(): void {
    this.#ended = true;
    this.#actions.wake();
  }

  /** Forgets the stream and what it holds. */
  close(): void {
    this.#closed = true;
    this.#chunks = [];
    this.#room?.resolve();
    this.#actions.forget();
  }

  /** The peer has everything before `offset`. An offset that was never sent is a broken peer's, and ignored. */
  acknowledge(offset: number): void {
    if (offset <= this.#acknowledged || offset > this.#sent) return;
    let drop = offset - this.#acknowledged;
    this.#acknowledged = offset;
    let whole = 0;
    for (let first = this.#chunks[whole]; first !== undefined && first.length <= drop; first = this.#chunks[whole]) {
      drop -= first.length;
      whole++;
    }
    if (whole > 0) this.#chunks.splice(0, whole);
    const [first] = this.#chunks;
    if (drop > 0 && first !== undefined) this.#chunks[0] = first.subarray(drop);
    if (this.hasRoom) {
      this.#room?.resolve();
      this.#room = undefined;
    }
    this.#actions.acknowledged(offset);
  }

  /** Sends again from there: a new link, or a peer that opened the stream late. */
  rewind(offset: number): void {
    if (offset < this.#acknowledged || offset > this.#written) return;
    this.acknowledge(Math.min(offset, this.#sent));
    this.#sent = offset;
    this.#endSent = false;
  }

  /** Sends at most one packet; false when there was nothing to send. */
  sendOne(): boolean {
    // What is written in one piece may reach beyond the window; it is sent as far as the window goes.
    const length = Math.min(maxDataBytes, Math.min(this.#written, this.#acknowledged + streamWindowBytes) - this.#sent);
    if (length > 0) {
      this.#actions.data(this.#sent, this.#slice(this.#sent - this.#acknowledged, length));
      this.#sent += length;
      return true;
    }
    if (!this.#ended || this.#endSent || this.#sent < this.#written) return false;
    this.#endSent = true;
    this.#actions.end(this.#written);
    return true;
  }

  /** Up to that many bytes, from that position of what is kept. */
  #slice(skip: number, length: number): Uint8Array[] {
    const pieces: Uint8Array[] = [];
    for (const chunk of this.#chunks) {
      if (skip >= chunk.length) {
        skip -= chunk.length;
        continue;
      }
      const piece = chunk.subarray(skip, skip + length);
      pieces.push(piece);
      length -= piece.length;
      skip = 0;
      if (length === 0) break;
    }
    return pieces;
  }
}

interface ReceiverActions {
  readonly acknowledge: (offset: number) => void;
  readonly open: (offset: number) => void;
  readonly forget: () => void;
}

/** A stream the peer sends. */
export class StreamReceiver {
  readonly #handlers: ReceiverHandlers;
  readonly #actions: ReceiverActions;
  #next: number;
  /** What the sender was told. */
  #acknowledged: number;
  #total: number | undefined;
  #ended = false;
  /** A gap was seen and the peer asked to go back; said once, not for each packet that was on its way. */
  #asked = false;

  constructor(startOffset: number, handlers: ReceiverHandlers, actions: ReceiverActions) {
    this.#handlers = handlers;
    this.#actions = actions;
    this.#next = this.#acknowledged = startOffset;
  }

  /** Everything before this offset has come. */
  get received(): number { return this.#next; }

  /** Lets the sender forget everything before that offset and send more; it is told in steps, and at the end. */
  acknowledge(offset: number): void {
    if (offset <= this.#acknowledged || offset > this.#next) return;
    if (offset - this.#acknowledged < acknowledgeEveryBytes && offset !== this.#total) return;
    this.#acknowledged = offset;
    this.#actions.acknowledge(offset);
  }

  close(): void {
    this.#actions.forget();
  }

  /** Tells the sender where we are: on opening, on a new link and after a gap. It takes everything before as acknowledged. */
  announce(): void {
    this.#acknowledged = this.#next;
    this.#actions.open(this.#next);
  }

  data(offset: number, bytes: Buffer): void {
    const end = offset + bytes.length;
    if (end <= this.#next || this.#ended) return; // sent twice around a reconnect
    if (offset > this.#next) {
      if (!this.#asked) this.announce();
      this.#asked = true;
      return;
    }
    // More than the window without an acknowledgement: not one of ours. Dropping it bounds what a hostile guest can make us hold.
    if (end - this.#acknowledged > streamWindowBytes) return;
    this.#asked = false;
    const fresh = bytes.subarray(this.#next - offset);
    const at = this.#next;
    this.#next = end;
    this.#handlers.onBytes(at, fresh);
    this.#finish();
  }

  end(total: number): void {
    this.#total = total;
    if (total > this.#next && !this.#asked) {
      this.#asked = true;
      this.announce();
    }
    this.#finish();
  }

  #finish(): void {
    if (this.#ended || this.#total === undefined || this.#next < this.#total) return;
    this.#ended = true;
    this.#handlers.onEnd(this.#next);
  }
}
