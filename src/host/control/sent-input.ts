/** A piece of input with its place in the process's input. */
export interface InputPiece {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** Input that was sent and that the guest has not confirmed: an owner that dies takes with it what was on its way. */
export class SentInput {
  #pieces: InputPiece[] = [];
  #end = 0;

  /** Where the next piece goes. */
  get end(): number { return this.#end; }

  get keptBytes(): number {
    return this.#end - (this.#pieces[0]?.offset ?? this.#end);
  }

  /** Keeps a piece that is being sent, and says where it goes. */
  add(bytes: Uint8Array): number {
    const offset = this.#end;
    this.#pieces.push({ offset, bytes });
    this.#end += bytes.length;
    return offset;
  }

  /** The guest has everything before that offset. */
  taken(offset: number): void {
    this.#pieces = this.#pieces.filter((piece) => piece.offset + piece.bytes.length > offset);
  }

  /** An owner expects input from there on: what it lacks, to be sent again. Elsewhere than ours it is another's input that counts, and ours goes on behind it. */
  goOnFrom(offset: number): readonly InputPiece[] {
    const first = this.#pieces[0]?.offset ?? this.#end;
    if (offset < first || offset > this.#end) {
      this.#pieces = this.#pieces.map((piece) => ({ ...piece, offset: piece.offset - first + offset }));
      this.#end += offset - first;
    } else {
      this.#pieces = this.#pieces.filter((piece) => piece.offset + piece.bytes.length > offset)
        .map((piece) => (piece.offset < offset ? { offset, bytes: piece.bytes.subarray(offset - piece.offset) } : piece));
    }
    return this.#pieces;
  }
}
