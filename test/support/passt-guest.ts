import { Socket } from "node:net";

/**
 * A guest as passt sees one: the frames a kernel would send, over the same stream as QEMU's (each
 * frame behind its length, 4 bytes big-endian). Enough of ARP, IPv4, UDP and TCP to ask and to answer
 * one thing at a time; and to send what no decent guest would.
 */
export class PasstGuest {
  readonly #socket: Socket;
  readonly #mac: Buffer;
  readonly #address: string;
  #received: Buffer = Buffer.alloc(0);
  #gatewayMac: Buffer = Buffer.alloc(6, 0xff);
  readonly #waiting = new Set<(frame: Buffer) => boolean>();
  readonly #servers = new Map<number, string>();
  readonly #udpServers = new Map<number, string>();

  constructor(fd: number, mac: string, cidr: string) {
    this.#mac = Buffer.from(mac.replaceAll(":", ""), "hex");
    this.#address = cidr.replace(/\/.*/, "");
    this.#socket = new Socket({ fd, readable: true, writable: true });
    this.#socket.on("data", (chunk: Buffer) => this.#take(chunk));
    this.#socket.on("error", () => { /* passt has gone; the waits below run out */ });
  }

  close(): void {
    this.#socket.destroy();
  }

  /** Asks for the MAC address behind an address; undefined without an answer. */
  async arp(address: string): Promise<string | undefined> {
    const request = Buffer.concat([Buffer.from("0001080006040001", "hex"), this.#mac, ip(this.#address), Buffer.alloc(6), ip(address)]);
    const answer = this.#expect((frame) => etherType(frame) === 0x0806 && frame.readUInt16BE(20) === 2 && frame.subarray(28, 32).equals(ip(address)));
    this.#send(Buffer.alloc(6, 0xff), 0x0806, request);
    const frame = await answer;
    if (frame === undefined) return undefined;
    this.#gatewayMac = Buffer.from(frame.subarray(22, 28));
    return [...this.#gatewayMac].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
  }

  /** Sends a datagram; answers the payload that comes back, undefined if none does. */
  async udp(address: string, port: number, payload: Buffer): Promise<Buffer | undefined> {
    const sourcePort = 40_000 + Math.floor(performance.now()) % 10_000;
    const answer = this.#expect((frame) => isIpv4(frame, 17) && frame.readUInt16BE(36) === sourcePort && frame.subarray(26, 30).equals(ip(address)));
    this.#send(this.#gatewayMac, 0x0800, ipv4(17, this.#address, address, udp(sourcePort, port, payload)));
    const frame = await answer;
    return frame === undefined ? undefined : Buffer.from(frame.subarray(42, 34 + frame.readUInt16BE(38)));
  }

  /** Tries to connect, from any source address one likes to claim: what came of it. */
  async connect(address: string, port: number, from = this.#address): Promise<"connected" | "refused" | "nothing"> {
    const sourcePort = 50_000 + Math.floor(performance.now()) % 10_000;
    const answer = this.#expect((frame) => isIpv4(frame, 6) && frame.readUInt16BE(36) === sourcePort && frame.readUInt16BE(34) === port);
    this.#send(this.#gatewayMac, 0x0800, ipv4(6, from, address, tcp(from, address, sourcePort, port, 1000, 0, 0x02)));
    const frame = await answer;
    if (frame === undefined) return "nothing";
    return ((frame[47] ?? 0) & 0x04) !== 0 ? "refused" : "connected";
  }

  /** Answers every connection to that port with a line, then closes. */
  serveTcp(port: number, line: string): void {
    this.#servers.set(port, line);
  }

  /** Answers every datagram to that port with a line. */
  serveUdp(port: number, line: string): void {
    this.#udpServers.set(port, line);
  }

  async #expect(match: (frame: Buffer) => boolean): Promise<Buffer | undefined> {
    return new Promise((resolve) => {
      const limitMs = 1_500;
      const timer = setTimeout(() => { this.#waiting.delete(check); resolve(undefined); }, limitMs);
      const check = (frame: Buffer): boolean => {
        if (!match(frame)) return false;
        clearTimeout(timer);
        resolve(frame);
        return true;
      };
      this.#waiting.add(check);
    });
  }

  #take(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    while (this.#received.length >= 4 && this.#received.length >= 4 + this.#received.readUInt32BE(0)) {
      const end = 4 + this.#received.readUInt32BE(0);
      this.#handle(this.#received.subarray(4, end));
      this.#received = this.#received.subarray(end);
    }
  }

  #handle(frame: Buffer): void {
    for (const check of this.#waiting) if (check(frame)) this.#waiting.delete(check);
    if (etherType(frame) === 0x0806 && frame.readUInt16BE(20) === 1 && frame.subarray(38, 42).equals(ip(this.#address))) {
      this.#send(frame.subarray(6, 12), 0x0806, Buffer.concat([Buffer.from("0001080006040002", "hex"), this.#mac, ip(this.#address), frame.subarray(22, 32)]));
    }
    if (isIpv4(frame, 6)) this.#serve(frame);
    if (isIpv4(frame, 17)) this.#serveDatagram(frame);
  }

  #serve(frame: Buffer): void {
    const line = this.#servers.get(frame.readUInt16BE(36));
    if (line === undefined) return;
    const from = [...frame.subarray(26, 30)].join(".");
    const flags = frame[47] ?? 0;
    const reply = (sequence: number, acknowledged: number, replyFlags: number, payload = Buffer.alloc(0)): void =>
      this.#send(frame.subarray(6, 12), 0x0800, ipv4(6, this.#address, from, tcp(this.#address, from, frame.readUInt16BE(36), frame.readUInt16BE(34), sequence, acknowledged, replyFlags, payload)));
    const theirSequence = frame.readUInt32BE(38);
    const acknowledged = frame.readUInt32BE(42);
    if ((flags & 0x02) !== 0) {
      reply(5000, theirSequence + 1, 0x12);
      // passt acknowledges the handshake only with data of its own; and Debian 12's spins for ever when data comes in one piece with the SYN's answer.
      const apartMs = 50;
      setTimeout(() => reply(5001, theirSequence + 1, 0x18, Buffer.from(`${line}\n`)), apartMs);
    } else if ((flags & 0x01) !== 0) reply(acknowledged, theirSequence + 1, 0x11);
  }

  #serveDatagram(frame: Buffer): void {
    const port = frame.readUInt16BE(36);
    const line = this.#udpServers.get(port);
    const from = [...frame.subarray(26, 30)].join(".");
    if (line !== undefined) this.#send(frame.subarray(6, 12), 0x0800, ipv4(17, this.#address, from, udp(port, frame.readUInt16BE(34), Buffer.from(line))));
  }

  #send(to: Buffer, type: number, payload: Buffer): void {
    const head = Buffer.alloc(18);
    head.writeUInt32BE(14 + payload.length, 0);
    to.copy(head, 4);
    this.#mac.copy(head, 10);
    head.writeUInt16BE(type, 16);
    this.#socket.write(Buffer.concat([head, payload]));
  }
}

function etherType(frame: Buffer): number {
  return frame.length < 42 ? 0 : frame.readUInt16BE(12);
}

function isIpv4(frame: Buffer, protocol: number): boolean {
  return etherType(frame) === 0x0800 && frame[14] === 0x45 && frame[23] === protocol && frame.length >= 14 + 20 + (protocol === 6 ? 20 : 8);
}

function ip(address: string): Buffer {
  return Buffer.from(address.split(".").map(Number));
}

function checksum(...parts: Buffer[]): number {
  const bytes = Buffer.concat([...parts, Buffer.alloc(parts.reduce((sum, part) => sum + part.length, 0) % 2)]);
  let sum = 0;
  for (let offset = 0; offset < bytes.length; offset += 2) sum += bytes.readUInt16BE(offset);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

function ipv4(protocol: number, from: string, to: string, payload: Buffer): Buffer {
  const head = Buffer.alloc(20);
  head[0] = 0x45;
  head.writeUInt16BE(20 + payload.length, 2);
  head[8] = 64;
  head[9] = protocol;
  ip(from).copy(head, 12);
  ip(to).copy(head, 16);
  head.writeUInt16BE(checksum(head), 10);
  return Buffer.concat([head, payload]);
}

function udp(fromPort: number, toPort: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(8); // a checksum of 0 says that there is none
  head.writeUInt16BE(fromPort, 0);
  head.writeUInt16BE(toPort, 2);
  head.writeUInt16BE(8 + payload.length, 4);
  return Buffer.concat([head, payload]);
}

function tcp(from: string, to: string, fromPort: number, toPort: number, sequence: number, acknowledged: number, flags: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(20);
  head.writeUInt16BE(fromPort, 0);
  head.writeUInt16BE(toPort, 2);
  head.writeUInt32BE(sequence >>> 0, 4);
  head.writeUInt32BE(acknowledged >>> 0, 8);
  head[12] = 0x50;
  head[13] = flags;
  head.writeUInt16BE(64_000, 14);
  const pseudo = Buffer.concat([ip(from), ip(to), Buffer.from([0, 6]), Buffer.from([(20 + payload.length) >>> 8, (20 + payload.length) & 0xff])]);
  head.writeUInt16BE(checksum(pseudo, head, payload), 16);
  return Buffer.concat([head, payload]);
}
