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
  end(): void;
  close(): void;
}

/** Stdio of one process on the data channel. */
export interface ProcessStreams {
  openStdin(): StdinSender;
  openOutput(fd: 1 | 2, handlers: { readonly onBytes: (offset: number, bytes: Uint8Array) => void; readonly onEnd: (total: number) => void }): OutputReceiver;
  /** Forgets the streams. */
  close(): void;
}
