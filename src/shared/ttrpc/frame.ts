/** Frame types and flags (docs/wire-ttrpc.md). */
export const frameType = { request: 1, response: 2, data: 3 } as const;
export const frameFlag = { remoteClosed: 0x01, remoteOpen: 0x02, noData: 0x04 } as const;

export const frameHeaderBytes = 10;
/** Most bytes after a header, both ways: 4 MiB. */
export const maxFrameBytes = 4 * 1024 * 1024;

/** One frame. `oversized` frames come without their data, which was discarded. */
export interface Frame {
  readonly streamId: number;
  readonly type: number;
  readonly flags: number;
  readonly data: Uint8Array;
  /** Length in the header, when it was above {@link maxFrameBytes}. */
  readonly oversizedBytes?: number;
}

/** The header of a frame with that much data. */
export function encodeFrameHeader(streamId: number, type: number, flags: number, dataBytes: number): Buffer {
  const header = Buffer.allocUnsafe(frameHeaderBytes);
  header.writeUInt32BE(dataBytes, 0);
  header.writeUInt32BE(streamId, 4);
  header.writeUInt8(type, 8);
  header.writeUInt8(flags, 9);
  return header;
}

/**
 * Cuts a byte stream into frames. Bytes of an incomplete frame are kept as the chunks they came in and
 * joined once, so that a large frame in small chunks costs no more than its size.
 */
export class FrameDecoder {
  #chunks: Uint8Array[] = [];
  #bufferedBytes = 0;
  /** Bytes of an oversized frame still to be thrown away. */
  #discardBytes = 0;

  push(chunk: Uint8Array): Frame[] {
    const frames: Frame[] = [];
    let rest = this.#discard(chunk);
    if (rest.length > 0) this.#append(rest);
    for (let header = this.#peekHeader(); header !== undefined; header = this.#peekHeader()) {
      if (header.length > maxFrameBytes) {
        rest = this.#take(this.#bufferedBytes).subarray(frameHeaderBytes);
        this.#discardBytes = header.length;
        frames.push({ streamId: header.streamId, type: header.type, flags: header.flags, data: new Uint8Array(), oversizedBytes: header.length });
        rest = this.#discard(rest);
        if (rest.length > 0) this.#append(rest);
        continue;
      }
      if (this.#bufferedBytes < frameHeaderBytes + header.length) break;
      const frame = this.#take(frameHeaderBytes + header.length);
      frames.push({ streamId: header.streamId, type: header.type, flags: header.flags, data: frame.subarray(frameHeaderBytes) });
    }
    return frames;
  }

  #append(chunk: Uint8Array): void {
    this.#chunks.push(chunk);
    this.#bufferedBytes += chunk.length;
  }

  #discard(chunk: Uint8Array): Uint8Array {
    const dropped = Math.min(this.#discardBytes, chunk.length);
    this.#discardBytes -= dropped;
    return chunk.subarray(dropped);
  }

  #peekHeader(): { length: number; streamId: number; type: number; flags: number } | undefined {
    if (this.#bufferedBytes < frameHeaderBytes) return undefined;
    if ((this.#chunks[0]?.length ?? 0) < frameHeaderBytes) this.#chunks = [Buffer.concat(this.#chunks)];
    const [first] = this.#chunks;
    if (first === undefined) return undefined;
    const view = new DataView(first.buffer, first.byteOffset, first.byteLength);
    return { length: view.getUint32(0), streamId: view.getUint32(4), type: view.getUint8(8), flags: view.getUint8(9) };
  }

  /** Removes that many buffered bytes from the front; copies only when they span chunks. */
  #take(length: number): Uint8Array {
    this.#bufferedBytes -= length;
    const [first] = this.#chunks;
    if (first !== undefined && first.length >= length) {
      if (first.length === length) this.#chunks.shift();
      else this.#chunks[0] = first.subarray(length);
      return first.subarray(0, length);
    }
    const joined = Buffer.concat(this.#chunks);
    this.#chunks = joined.length === length ? [] : [joined.subarray(length)];
    return joined.subarray(0, length);
  }
}
