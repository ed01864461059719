import { Transform, type TransformCallback } from "node:stream";

const frameMagic = 0xfd2fb528;
/** 0x184D2A50 to 0x184D2A5F: frames to be passed over. */
const skippableMagic = 0x184d2a50;
const blockTypes = { raw: 0, rle: 1, compressed: 2 } as const;

/** What comes next: so many bytes to collect and look at, or to pass on unseen. */
type Step =
  | { readonly name: "magic" | "block header" | "skippable size"; readonly bytes: number }
  /** Its first byte tells its length. */
  | { readonly name: "frame header" }
  | { readonly name: "pass" | "skip"; readonly bytes: number; readonly next: Step };

const startOfFrame: Step = { name: "magic", bytes: 4 };

/**
 * Cuts a zstd stream (RFC 8878, 3.1) so that no chunk spans two frames, and drops skippable frames.
 * Node's decompressor ignores what follows a frame within a chunk, and layers often have many frames
 * (zstd:chunked has one per file).
 */
export class ZstdFrames extends Transform {
  #step: Step = startOfFrame;
  #collected: Buffer = Buffer.alloc(0);
  #left = 0;
  #hasChecksum = false;

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    try {
      for (let rest = chunk; rest.length > 0;) rest = this.#take(rest);
      done();
    } catch (error) {
      done(error instanceof Error ? error : new Error(String(error)));
    }
  }

  override _flush(done: TransformCallback): void {
    if (this.#step === startOfFrame && this.#collected.length === 0) done();
    else done(new Error("zstd: cut off"));
  }

  /** Uses the beginning of the bytes; returns the rest. */
  #take(bytes: Buffer): Buffer {
    const step = this.#step;
    if (step.name === "pass" || step.name === "skip") {
      const part = bytes.subarray(0, this.#left);
      if (step.name === "pass") this.push(part);
      this.#left -= part.length;
      if (this.#left === 0) this.#enter(step.next);
      return bytes.subarray(part.length);
    }
    const wanted = step.name === "frame header" ? frameHeaderBytes(this.#collected[0] ?? bytes[0] ?? 0) : step.bytes;
    const part = bytes.subarray(0, wanted - this.#collected.length);
    this.#collected = Buffer.concat([this.#collected, part]);
    if (this.#collected.length === wanted) this.#read(step.name, this.#collected);
    return bytes.subarray(part.length);
  }

  #read(name: Exclude<Step["name"], "pass" | "skip">, bytes: Buffer): void {
    if (name === "magic") {
      const magic = bytes.readUInt32LE();
      if (magic === frameMagic) {
        this.push(bytes);
        this.#enter({ name: "frame header" });
      } else if ((magic & 0xfffffff0) >>> 0 === skippableMagic) {
        this.#enter({ name: "skippable size", bytes: 4 });
      } else {
        throw new Error("zstd: no frame where one should begin");
      }
    } else if (name === "skippable size") {
      this.#enter({ name: "skip", bytes: bytes.readUInt32LE(), next: startOfFrame });
    } else if (name === "frame header") {
      this.push(bytes);
      this.#hasChecksum = ((bytes[0] ?? 0) & 4) !== 0;
      this.#enter({ name: "block header", bytes: 3 });
    } else {
      this.push(bytes);
      const header = bytes.readUIntLE(0, 3);
      const isLast = (header & 1) !== 0, type = (header >> 1) & 3;
      if (type > blockTypes.compressed) throw new Error("zstd: bad block");
      const size = (type === blockTypes.rle ? 1 : header >> 3) + (isLast && this.#hasChecksum ? 4 : 0);
      this.#enter({ name: "pass", bytes: size, next: isLast ? startOfFrame : { name: "block header", bytes: 3 } });
    }
  }

  #enter(step: Step): void {
    this.#collected = Buffer.alloc(0);
    this.#step = step;
    if (step.name !== "pass" && step.name !== "skip") return;
    this.#left = step.bytes;
    if (step.bytes === 0) this.#enter(step.next);
  }
}

/** Length of a frame header, by its first byte (RFC 8878, 3.1.1.1). */
function frameHeaderBytes(descriptor: number): number {
  const singleSegment = (descriptor & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0;
  const contentSizeBytes = [singleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0;
  return 1 + (singleSegment ? 0 : 1) + dictionaryBytes + contentSizeBytes;
}
