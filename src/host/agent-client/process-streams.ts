/** The guest's end of one output stream. */
export interface OutputReceiver {
  /** Everything up to that offset has been delivered; the guest may forget it and send more. */
  acknowledge(offset: number): void;
  close(): void;
}

/** The guest's end of a process's input. */
export interface StdinSender {
  /** Resolves when there is room for more, or when the stream is closed and the bytes are of no use any more. */
  write(bytes: Uint8Array): Promise<void>;
  /** Position in the stream after what was written. */
  readonly written: number;
  end(): void;
  close(): void;
}

/** Stdio of one process on the data channel. */
export interface ProcessStreams {
  /** Input goes on at that offset; `onTaken` is called when the process's pipe has taken everything before an offset. */
  openStdin(startOffset: number, onTaken: (offset: number) => void): StdinSender;
  /** Output comes from that offset on; the guest must still have it. */
  openOutput(fd: 1 | 2, handlers: { readonly onBytes: (offset: number, bytes: Uint8Array) => void; readonly onEnd: (total: number) => void }, startOffset?: number): OutputReceiver;
  /** Forgets the streams. */
  close(): void;
}
