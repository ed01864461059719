import { RuntimeError } from "../../shared/base/errors.ts";
import { maxLanePieceBytes } from "../../shared/channel/lane.ts";
import type { FileResponse } from "../../shared/protocol/gen/file_pb.ts";
import type { OwnerClient } from "../control/owner-client.ts";
import type { FileOperation } from "./container-file-client.ts";
import { Lane, isLaneLost } from "./lane.ts";

/** Bytes of one message; large enough that a round trip costs little, small enough to delay no other call for long. */
const messageBytes = 512 * 1024;
/** Messages under way at once: the guest works on one while the next is on its way. */
const messagesAhead = 3;
/** From this much on a file's bytes go by a lane: plugging one costs as much as 1 MiB of messages does. */
const laneFromBytes = 1024 * 1024;
/** Bytes of a piece by a lane that have to be gathered, or are given on before the rest has come. */
const streamPieceBytes = 4 * 1024 * 1024;
/** Pieces by a lane under way at once, and so the memory a stream needs. */
const lanePiecesAhead = 2;

/** How work is done on one open file. */
export interface OpenFileCalls {
  readonly handle: number;
  readonly signal: AbortSignal | undefined;
  readonly perform: (operation: FileOperation) => Promise<FileResponse>;
  readonly owner: () => Promise<OwnerClient["owner"]>;
}

/** Part of a file. */
interface Piece {
  readonly chunks: readonly Uint8Array[];
  readonly offset: number;
  readonly length: number;
}

/**
 * The content of an open file. `sizeBytes` is what is known of its size, and decides only how its bytes
 * come: those of a large one by a lane, as long as one is to be had, the others in messages. `whole`:
 * in as few pieces as can be, for those who keep all of it.
 */
export async function* readOpenFile(file: OpenFileCalls, sizeBytes: number, { whole = false } = {}): AsyncGenerator<Uint8Array> {
  const lanes = new Lanes(file);
  // One more byte than there is: the answer tells that this was the end.
  const pieceBytes = whole ? Math.min(Math.max(sizeBytes + 1, streamPieceBytes), maxLanePieceBytes) : streamPieceBytes;
  for (let offset: number | undefined = 0; offset !== undefined;) {
    const lane: Lane | undefined = sizeBytes - offset >= laneFromBytes ? await lanes.get() : undefined;
    offset = yield* lane === undefined ? readByMessages(file, offset, lanes.hopeless ? Infinity : streamPieceBytes) : readByLane(file, offset, lane, { sizeBytes, pieceBytes });
  }
}

/** Writes content into an open file, from its start, or for `append` at its end; then it goes in messages, which can be sent but once. */
export async function writeOpenFile(file: OpenFileCalls, content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, { append }: { readonly append: boolean }): Promise<void> {
  const lanes = new Lanes(file);
  const messages = new MessageWriter(file), byLane = new LaneWriter(file);
  const send = async (piece: Piece): Promise<void> => {
    const lane = piece.length >= laneFromBytes && !append ? await lanes.get() : undefined;
    await sendAnotherWay(lane === undefined ? [...await byLane.settle(), piece] : await byLane.write(lane, piece));
  };
  // A part of each in messages, so that something moves whatever becomes of lanes; then one is asked for again.
  const sendAnotherWay = async (pieces: readonly Piece[]): Promise<void> => {
    for (const piece of pieces) {
      for await (const part of inPieces(piece.chunks, streamPieceBytes)) {
        const moved = { ...part, offset: piece.offset + part.offset };
        await (part.offset === 0 ? messages.write(moved) : send(moved));
      }
    }
  };
  try {
    for await (const piece of append ? inPieces(content, messageBytes) : inPieces(content, streamPieceBytes, maxLanePieceBytes)) await send(piece);
    for (let left = await byLane.settle(); left.length > 0; left = await byLane.settle()) await sendAnotherWay(left);
    await messages.settle();
  } finally {
    await Promise.all([lanes.close(), messages.abandoned()]);
  }
}

/** Yields pieces up to the limit, or the file's end. Returns where to go on; undefined at the end. */
async function* readByMessages({ handle, perform }: OpenFileCalls, from: number, limitBytes: number): AsyncGenerator<Uint8Array, number | undefined> {
  const answers: Promise<FileResponse>[] = [];
  let asked = from, taken = from;
  try {
    for (;;) {
      for (; answers.length < messagesAhead && asked < from + limitBytes; asked += messageBytes) answers.push(observed(perform({ case: "read", value: { handle, offset: BigInt(asked), length: messageBytes } })));
      const answer = answers.shift();
      if (answer === undefined) return taken;
      const { bytes } = await answer;
      if (bytes.length > 0) yield bytes;
      taken += bytes.length;
      if (bytes.length < messageBytes) return undefined;
    }
  } finally {
    await Promise.allSettled(answers);
  }
}

/** As {@link readByMessages}, until the lane is lost. */
async function* readByLane({ handle, signal, perform }: OpenFileCalls, from: number, lane: Lane, { sizeBytes, pieceBytes }: { readonly sizeBytes: number; readonly pieceBytes: number }): AsyncGenerator<Uint8Array, number | undefined> {
  const answers: Promise<FileResponse>[] = [];
  let asked = from, taken = from;
  try {
    for (;;) {
      // Nothing is expected beyond the end, unless the file has grown.
      for (; answers.length === 0 || (answers.length < lanePiecesAhead && asked < sizeBytes); asked += pieceBytes) {
        lane.expect(pieceBytes);
        answers.push(observed(perform({ case: "read", value: { handle, offset: BigInt(asked), length: pieceBytes, byLane: true } })));
      }
      const { laneBytes } = await answers.shift() as FileResponse; // filled above
      if (laneBytes > pieceBytes) throw wrongCount(laneBytes, pieceBytes);
      const bytes = await lane.take(laneBytes, { signal });
      if (bytes.length > 0) yield bytes;
      taken += laneBytes;
      if (laneBytes < pieceBytes) return undefined;
    }
  } catch (error) {
    if (isLaneLost(error)) return taken;
    throw error;
  } finally {
    await lane.close();
    await Promise.allSettled(answers);
  }
}

/** The lanes of one file, one after the other. */
class Lanes {
  readonly #file: OpenFileCalls;
  #lane: Lane | undefined;
  /** True when there will be none: not even later. */
  hopeless = false;

  constructor(file: OpenFileCalls) {
    this.#file = file;
  }

  /** The lane; undefined when there is none at the moment. */
  async get(): Promise<Lane | undefined> {
    if (this.hopeless) return undefined;
    if (this.#lane?.lost === false) return this.#lane;
    await this.close();
    try {
      this.#lane = await Lane.open(await this.#file.owner());
      await this.#file.perform({ case: "useLane", value: { handle: this.#file.handle, laneId: this.#lane.laneId } });
      return this.#lane;
    } catch (error) {
      await this.close();
      if (RuntimeError.is(error, "canceled") || !RuntimeError.is(error)) throw error;
      // Another transfer has it, or the sandbox is being saved. All else is no reason to fail: what is wrong is met again by messages.
      this.hopeless = error.reason !== "lane_busy" && !isLaneLost(error);
      return undefined;
    }
  }

  async close(): Promise<void> {
    await this.#lane?.close();
    this.#lane = undefined;
  }
}

/** Writes pieces by a lane. What a lane that is lost has not brought to the guest for certain is given back. */
class LaneWriter {
  readonly #file: OpenFileCalls;
  readonly #sent: { readonly piece: Piece; readonly lane: Lane; readonly answer: Promise<FileResponse> }[] = [];

  constructor(file: OpenFileCalls) {
    this.#file = file;
  }

  async write(lane: Lane, piece: Piece): Promise<Piece[]> {
    lane.send(piece.chunks);
    const answer = observed(this.#file.perform({ case: "write", value: { handle: this.#file.handle, offset: BigInt(piece.offset), laneLength: piece.length } }));
    this.#sent.push({ piece, lane, answer });
    return this.#settle(lanePiecesAhead - 1);
  }

  /** Waits for all that were sent. */
  async settle(): Promise<Piece[]> {
    return this.#settle(0);
  }

  async #settle(mayBeLeft: number): Promise<Piece[]> {
    for (let first = this.#sent[0]; first !== undefined && this.#sent.length > mayBeLeft; first = this.#sent[0]) {
      try {
        const { laneBytes } = await first.answer;
        if (laneBytes !== first.piece.length) throw wrongCount(laneBytes, first.piece.length);
        first.lane.requireSilent();
        this.#sent.shift();
      } catch (error) {
        if (!isLaneLost(error)) throw error;
        first.lane.requireSilent();
        const left = this.#sent.splice(0);
        await first.lane.close();
        await Promise.allSettled(left.map(({ answer }) => answer));
        return left.map(({ piece }) => piece);
      }
    }
    return [];
  }
}

/** Writes pieces in messages. */
class MessageWriter {
  readonly #file: OpenFileCalls;
  readonly #answers: Promise<FileResponse>[] = [];

  constructor(file: OpenFileCalls) {
    this.#file = file;
  }

  async write({ chunks, offset }: Piece): Promise<void> {
    for await (const part of inPieces(chunks, messageBytes)) {
      if (this.#answers.length >= messagesAhead) await this.#answers.shift();
      const bytes = part.chunks.length === 1 ? part.chunks[0] : Buffer.concat(part.chunks);
      this.#answers.push(observed(this.#file.perform({ case: "write", value: { handle: this.#file.handle, offset: BigInt(offset + part.offset), ...(bytes !== undefined && { bytes }) } })));
    }
  }

  async settle(): Promise<void> {
    while (this.#answers.length > 0) await this.#answers.shift();
  }

  /** Waits for what nobody wants to know any more. */
  async abandoned(): Promise<void> {
    await Promise.allSettled(this.#answers);
  }
}

/** The same bytes in pieces of at least that length, but for the last; what is in memory together is cut only at the most. */
async function* inPieces(content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, least: number, most = least): AsyncGenerator<Piece> {
  let chunks: Uint8Array[] = [];
  let length = 0, offset = 0;
  for await (const chunk of content) {
    for (let at = 0; at < chunk.length;) {
      const part = chunk.subarray(at, at + (length === 0 ? most : least - length));
      chunks.push(part);
      length += part.length;
      at += part.length;
      if (length < least) continue;
      yield { chunks, offset, length };
      offset += length;
      chunks = [];
      length = 0;
    }
  }
  if (length > 0) yield { chunks, offset, length };
}

/** A failure is thrown where the answer is awaited; of several the first one is. */
function observed<T>(answer: Promise<T>): Promise<T> {
  answer.catch(() => { /* see above */ });
  return answer;
}

function wrongCount(told: number, wanted: number): RuntimeError {
  return new RuntimeError("data_loss", `the guest says that it moved ${told} of ${wanted} bytes`, { reason: "bad_guest_answer" });
}
