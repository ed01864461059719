/**
 * Packets on a virtio-serial port and the handshake before them; docs/wire-channel.md draws the bytes.
 * A client of the port may leave in the middle of a packet, and what it left is read by, or lost to,
 * the next one. So every session begins with a run of zeros that completes any half packet, then a
 * greeting that is looked for only where no packet can be.
 */

const lengthBytes = 4;
/** Ends every packet: the first bytes of the session's id, so that a packet completed by zeros is known. */
const trailerBytes = 8;
export const packetOverheadBytes = lengthBytes + trailerBytes;
/** The guest's driver moves at most 32 KiB in one write; a packet is never more. */
export const maxPacketBytes = 32 * 1024;
export const maxPayloadBytes = maxPacketBytes - packetOverheadBytes;

export const sessionIdBytes = 16;
const hello = Buffer.from("casemate\x00hello\x01\xfe", "latin1");
const helloAnswer = Buffer.from("casemate\x00agent\x01\xfe", "latin1");

/** What the host sends first on a new connection. The id's first byte must not be 0. `first`: no host was here before, so there is no half packet to complete. */
export function encodeHello(sessionId: Uint8Array, first = false): Buffer {
  return Buffer.concat([Buffer.alloc(first ? 0 : maxPacketBytes), hello, sessionId]);
}

/** What the guest answers. */
export function encodeHelloAnswer(sessionId: Uint8Array): Buffer {
  return Buffer.concat([helloAnswer, sessionId]);
}

/** One packet in one buffer: one write is one trip through the virtqueue. It begins where `into`, of {@link maxPacketBytes}, does, if that is given. */
export function encodePacket(sessionId: Uint8Array, pieces: readonly Uint8Array[], into?: Buffer): Buffer {
  let payloadBytes = 0;
  for (const piece of pieces) payloadBytes += piece.length;
  const packetBytes = payloadBytes + packetOverheadBytes;
  const packet = into?.subarray(0, packetBytes) ?? Buffer.allocUnsafe(packetBytes);
  packet.writeUInt32BE(payloadBytes, 0);
  let at = lengthBytes;
  for (const piece of pieces) {
    packet.set(piece, at);
    at += piece.length;
  }
  packet.set(sessionId.subarray(0, trailerBytes), at);
  return packet;
}

/** What a parser found, in order. */
export type Found =
  | { readonly type: "session"; readonly sessionId: Buffer }
  | { readonly type: "packet"; readonly payload: Buffer }
  /** Bytes that are no packet; the parser looks for the next greeting. */
  | { readonly type: "broken" };

/** Cuts the bytes of a port into sessions and packets. The guest looks for greetings, the host for the answer to its own. */
export class PacketParser {
  readonly #greeting: Buffer;
  #rest: Buffer = Buffer.alloc(0);
  /** Chunks of a packet that is not complete; joined once. */
  #chunks: Buffer[] = [];
  #missingBytes = 0;
  #sessionId: Buffer | undefined;

  private constructor(greeting: Buffer) {
    this.#greeting = greeting;
  }

  /** For the guest: any greeting of a host begins a session. */
  static forGuest(): PacketParser {
    return new PacketParser(hello);
  }

  /** For the host: everything before the answer to its own greeting belongs to somebody else. */
  static forHost(sessionId: Uint8Array): PacketParser {
    return new PacketParser(encodeHelloAnswer(sessionId));
  }

  push(chunk: Buffer): Found[] {
    if (this.#missingBytes > 0) {
      this.#chunks.push(chunk);
      this.#missingBytes -= chunk.length;
      if (this.#missingBytes > 0) return [];
      chunk = Buffer.concat(this.#chunks);
      this.#chunks = [];
      this.#missingBytes = 0;
    }
    const found: Found[] = [];
    let bytes: Buffer | undefined = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    this.#rest = Buffer.alloc(0);
    while (bytes !== undefined && bytes.length > 0) bytes = this.#sessionId === undefined ? this.#scan(bytes, found) : this.#parse(bytes, this.#sessionId, found);
    return found;
  }

  /** Looks for the greeting; returns what follows it, or undefined when more bytes are needed. */
  #scan(bytes: Buffer, found: Found[]): Buffer | undefined {
    const wholeBytes = this.#greeting.length + (this.#greeting === hello ? sessionIdBytes : 0);
    const at = bytes.indexOf(this.#greeting);
    if (at === -1 || bytes.length < at + wholeBytes) {
      // A greeting may begin in the last bytes; nothing before it matters.
      this.#rest = Buffer.from(at === -1 ? bytes.subarray(Math.max(0, bytes.length - this.#greeting.length + 1)) : bytes.subarray(at));
      return undefined;
    }
    const sessionId = Buffer.from(bytes.subarray(at + wholeBytes - sessionIdBytes, at + wholeBytes));
    this.#sessionId = sessionId;
    found.push({ type: "session", sessionId });
    return bytes.subarray(at + wholeBytes);
  }

  #parse(bytes: Buffer, sessionId: Buffer, found: Found[]): Buffer | undefined {
    if (bytes.length < lengthBytes) {
      this.#rest = bytes;
      return undefined;
    }
    const payloadBytes = bytes.readUInt32BE(0);
    const packetBytes = payloadBytes + packetOverheadBytes;
    if (payloadBytes === 0 || packetBytes > maxPacketBytes) return this.#lose(bytes, found);
    if (bytes.length < packetBytes) {
      this.#chunks = [bytes];
      this.#missingBytes = packetBytes - bytes.length;
      return undefined;
    }
    const end = lengthBytes + payloadBytes;
    if (bytes.compare(sessionId, 0, trailerBytes, end, packetBytes) !== 0) return this.#lose(bytes.subarray(packetBytes), found);
    found.push({ type: "packet", payload: bytes.subarray(lengthBytes, end) });
    return bytes.subarray(packetBytes);
  }

  #lose(rest: Buffer, found: Found[]): Buffer {
    this.#sessionId = undefined;
    found.push({ type: "broken" });
    return rest;
  }
}
