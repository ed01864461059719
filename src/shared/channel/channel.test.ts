import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { PacketLink } from "./link.ts";
import { PacketParser, encodeHello, encodeHelloAnswer, encodePacket, maxPacketBytes, maxPayloadBytes, type Found } from "./packet.ts";
import { StdioMux, streamWindowBytes } from "./stdio-mux.ts";

const sessionId = (byte: number): Buffer => Buffer.alloc(16, byte);

/** Pushes bytes in pieces of that length. */
function pushInPieces(parser: PacketParser, bytes: Buffer, pieceBytes: number): Found[] {
  const found: Found[] = [];
  for (let at = 0; at < bytes.length; at += pieceBytes) found.push(...parser.push(bytes.subarray(at, at + pieceBytes)));
  return found;
}

test("PacketParser finds the same packets however the bytes are cut", () => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 70_000 }), fc.array(fc.uint8Array({ minLength: 1, maxLength: 200 }), { maxLength: 8 }), (pieceBytes, payloads) => {
    const bytes = Buffer.concat([Buffer.from("left over"), encodeHello(sessionId(7)), ...payloads.map((payload) => encodePacket(sessionId(7), [payload]))]);
    const found = pushInPieces(PacketParser.forGuest(), bytes, pieceBytes);
    assert.deepEqual(found.map((one) => (one.type === "packet" ? [...one.payload] : one.type)), ["session", ...payloads.map((payload) => [...payload])]);
  }));
});

test("a client that leaves anywhere costs the next one nothing", () => {
  const payload = Buffer.concat([encodeHello(sessionId(9)).subarray(maxPacketBytes), Buffer.alloc(500, 1)]); // holds a whole greeting
  const first = Buffer.concat([encodeHello(sessionId(1)), encodePacket(sessionId(1), [payload]), encodePacket(sessionId(1), [Buffer.alloc(maxPayloadBytes, 2)])]);
  const second = Buffer.concat([encodeHello(sessionId(2)), encodePacket(sessionId(2), [Buffer.from("fresh")])]);
  for (let cut = 0; cut <= first.length; cut += cut < maxPacketBytes - 40 ? 4093 : 61) {
    const parser = PacketParser.forGuest();
    const found = [...parser.push(first.subarray(0, cut)), ...parser.push(second)];
    const sessions = found.flatMap((one) => (one.type === "session" ? [one.sessionId[0]] : []));
    assert.equal(sessions.at(-1), 2, `cut at ${cut}`);
    assert.ok(!sessions.includes(9), "a greeting inside a payload is data");
    const packets = found.flatMap((one) => (one.type === "packet" ? [one.payload] : []));
    assert.equal(packets.at(-1)?.toString(), "fresh");
    for (const packet of packets.slice(0, -1)) assert.ok(packet.equals(payload) || packet.equals(Buffer.alloc(maxPayloadBytes, 2)), "no packet is delivered in part");
  }
});

test("the host discards everything before the answer to its own greeting", () => {
  const bytes = Buffer.concat([encodePacket(sessionId(1), [Buffer.from("old")]), encodeHelloAnswer(sessionId(1)), encodeHelloAnswer(sessionId(2)), encodePacket(sessionId(2), [Buffer.from("new")])]);
  const found = PacketParser.forHost(sessionId(2)).push(bytes);
  assert.deepEqual(found.map((one) => (one.type === "packet" ? one.payload.toString() : one.type)), ["session", "new"]);
});

/** Two muxes and a wire between them that can be cut: what is in flight is lost then. */
class Wire {
  readonly a = new StdioMux();
  readonly b = new StdioMux();
  #inFlight: { to: PacketLink; payload: Buffer }[] = [];
  #links: PacketLink[] = [];

  connect(): void {
    for (const link of this.#links) link.close();
    this.#inFlight = [];
    const make = (other: () => PacketLink): PacketLink => new PacketLink({
      write: (packet) => {
        this.#inFlight.push({ to: other(), payload: Buffer.from(packet.subarray(4, packet.length - 8)) });
        return true;
      },
    }, sessionId(1));
    const linkA: PacketLink = make(() => linkB);
    const linkB: PacketLink = make(() => linkA);
    this.#links = [linkA, linkB];
    this.a.attach(linkA);
    this.b.attach(linkB);
  }

  /** Delivers some of what is in flight, in order. */
  step(count: number): void {
    for (let index = 0; index < count; index++) {
      const next = this.#inFlight.shift();
      if (next === undefined) return;
      next.to.deliver(next.payload);
    }
  }
}

test("no byte is lost or doubled, whenever the link is cut and whenever the receiver opens", () => {
  fc.assert(fc.property(fc.uint8Array({ minLength: 1, maxLength: 3000 }), fc.array(fc.integer({ min: 0, max: 12 }), { minLength: 1, maxLength: 30 }), fc.integer({ min: 0, max: 5 }), (bytes, steps, openAt) => {
    const wire = new Wire();
    wire.connect();
    const sender = wire.a.openSender(1, 1);
    for (let at = 0; at < bytes.length; at += 97) void sender.write(bytes.subarray(at, at + 97));
    sender.end();
    const received: number[] = [];
    let ended: number | undefined;
    const open = (): void => {
      const receiver = wire.b.openReceiver(1, 1, {
        onBytes: (offset, piece) => {
          assert.equal(offset, received.length);
          received.push(...piece);
          receiver.acknowledge(received.length);
        },
        onEnd: (total) => { ended = total; },
      });
    };
    for (const [index, count] of steps.entries()) {
      if (index === openAt) open();
      wire.step(count);
      if (count % 3 === 0) wire.connect();
    }
    if (steps.length <= openAt) open();
    wire.connect();
    wire.step(100_000);
    assert.deepEqual(received, [...bytes]);
    assert.equal(ended, bytes.length);
  }), { numRuns: 300 });
});

test("a sender is at most one window ahead, and goes on when the receiver acknowledges", async () => {
  const wire = new Wire();
  wire.connect();
  const sender = wire.a.openSender(1, 0);
  const received: Uint8Array[] = [];
  const receiver = wire.b.openReceiver(1, 0, { onBytes: (_offset, piece) => received.push(piece), onEnd: () => undefined });
  let room = false;
  void sender.write(Buffer.alloc(streamWindowBytes, 1)).then(() => { room = true; });
  wire.step(1_000);
  await new Promise(setImmediate);
  assert.equal(room, false);
  assert.equal(received.reduce((sum, piece) => sum + piece.length, 0), streamWindowBytes);
  receiver.acknowledge(streamWindowBytes / 4);
  wire.step(1_000);
  await new Promise(setImmediate);
  assert.equal(room, true);
});

test("a piece larger than the window goes out as far as the window does, and a receiver tells of its progress in steps", () => {
  const wire = new Wire();
  wire.connect();
  const sender = wire.a.openSender(1, 1);
  let received = 0;
  const receiver = wire.b.openReceiver(1, 1, { onBytes: (_offset, piece) => { received += piece.length; }, onEnd: () => undefined });
  void sender.write(Buffer.alloc(2 * streamWindowBytes));
  wire.step(1_000);
  assert.equal(received, streamWindowBytes);
  receiver.acknowledge(streamWindowBytes / 4 - 1);
  wire.step(1_000);
  assert.equal(sender.acknowledged, 0);
  receiver.acknowledge(streamWindowBytes / 2);
  wire.step(1_000);
  assert.equal(sender.acknowledged, streamWindowBytes / 2);
  assert.equal(received, streamWindowBytes * 1.5);
});

test("random packets change nothing and open nothing", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 40 }), (payload) => {
    const wire = new Wire();
    wire.connect();
    const sender = wire.a.openSender(1, 1);
    void sender.write(Buffer.from("abc"));
    const link = new PacketLink({ write: () => true }, sessionId(1));
    wire.a.attach(link);
    link.deliver(Buffer.from(payload));
    assert.equal(sender.written, 3);
  }));
});
