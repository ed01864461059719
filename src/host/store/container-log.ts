import { closeSync, fstatSync, openSync, readSync, renameSync, statSync } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";

/** One piece of output; docs/log-format.md draws the bytes. */
export interface LogRecord {
  /** 1 stdout, 2 stderr. */
  readonly fd: number;
  /** Position of the first byte in that stream. */
  readonly offset: number;
  readonly unixNanos: bigint;
  readonly bytes: Uint8Array;
}

const headerBytes = 24;
/** Version of the record layout, in every header. */
const recordVersion = 1;
/** Longest piece in one record: the data port's largest packet, with room to spare. */
const maxRecordBytes = 1024 * 1024;
/** docker's json-file default is unbounded and fills disks; this is docker's own recommendation. */
const defaultMaxFileBytes = 10 * 1024 * 1024;
const defaultMaxFiles = 3;

/** The header of a record: u8 version, u8 fd, u16 0, u32 length, u64 offset, u64 unix nanoseconds; big endian. */
export function encodeLogHeader(record: LogRecord): Buffer {
  const header = Buffer.alloc(headerBytes);
  header.writeUInt8(recordVersion, 0);
  header.writeUInt8(record.fd, 1);
  header.writeUInt32BE(record.bytes.length, 4);
  header.writeBigUInt64BE(BigInt(record.offset), 8);
  header.writeBigUInt64BE(record.unixNanos, 16);
  return header;
}

/** Cuts records out of a stream of bytes; keeps the incomplete end for the next call. */
export class LogDecoder {
  #rest: Buffer = Buffer.alloc(0);

  /** @throws RuntimeError `data_loss` when the bytes are no log. */
  push(bytes: Uint8Array): LogRecord[] {
    const buffer = this.#rest.length === 0 ? Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length) : Buffer.concat([this.#rest, bytes]);
    const records: LogRecord[] = [];
    let at = 0;
    while (buffer.length - at >= headerBytes) {
      const length = buffer.readUInt32BE(at + 4);
      if (buffer[at] !== recordVersion || length > maxRecordBytes) throw new RuntimeError("data_loss", `read log: no record at byte ${at}`);
      if (buffer.length - at < headerBytes + length) break;
      records.push({ fd: buffer.readUInt8(at + 1), offset: Number(buffer.readBigUInt64BE(at + 8)), unixNanos: buffer.readBigUInt64BE(at + 16), bytes: buffer.subarray(at + headerBytes, at + headerBytes + length) });
      at += headerBytes + length;
    }
    this.#rest = Buffer.from(buffer.subarray(at));
    return records;
  }

  /** Bytes of an incomplete record at the end. */
  get pendingBytes(): number {
    return this.#rest.length;
  }
}

/** Appends a container's output to its log and rotates it: `log`, `log.1`, `log.2`. Writes are in the order of the calls. */
export class ContainerLogWriter {
  readonly #path: string;
  readonly #maxFileBytes: number;
  readonly #maxFiles: number;
  #file: FileHandle;
  #fileBytes: number;
  #tail: Promise<void> = Promise.resolve();
  #queued: LogRecord[] = [];
  #failure: RuntimeError | undefined;

  private constructor(path: string, file: FileHandle, fileBytes: number, maxFileBytes: number, maxFiles: number) {
    this.#path = path;
    this.#file = file;
    this.#fileBytes = fileBytes;
    this.#maxFileBytes = maxFileBytes;
    this.#maxFiles = maxFiles;
  }

  static async open(path: string, options: { readonly maxFileBytes?: number; readonly maxFiles?: number } = {}): Promise<ContainerLogWriter> {
    const file = await open(path, "a", 0o600);
    const { size } = await file.stat();
    return new ContainerLogWriter(path, file, size, options.maxFileBytes ?? defaultMaxFileBytes, options.maxFiles ?? defaultMaxFiles);
  }

  /** The first failure to write, e.g. a full disk. Output after it is dropped so that the workload goes on. */
  get failure(): RuntimeError | undefined {
    return this.#failure;
  }

  /** Resolves when the record has been handed to the kernel (or dropped after a failure). */
  append(record: LogRecord): Promise<void> {
    this.#queued.push(record);
    if (this.#queued.length === 1) this.#tail = this.#tail.then(() => this.#flush());
    return this.#tail;
  }

  async close(): Promise<void> {
    await this.#tail;
    await this.#file.close();
  }

  /** Writes everything that has queued up since the last flush with one system call. */
  async #flush(): Promise<void> {
    const batch = this.#queued;
    this.#queued = [];
    if (this.#failure !== undefined) return;
    const pieces = batch.flatMap((record) => [encodeLogHeader(record), record.bytes]);
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
    try {
      if (this.#fileBytes > 0 && this.#fileBytes + length > this.#maxFileBytes) await this.#rotate();
      await this.#file.writev(pieces);
      this.#fileBytes += length;
    } catch (error) {
      this.#failure = RuntimeError.wrap(error, `write log "${this.#path}"`);
    }
  }

  async #rotate(): Promise<void> {
    await this.#file.close();
    for (let index = this.#maxFiles - 1; index >= 1; index--) {
      try {
        renameSync(index === 1 ? this.#path : `${this.#path}.${index - 1}`, `${this.#path}.${index}`);
      } catch (error) {
        if (!isErrnoException(error, "ENOENT")) throw error;
      }
    }
    this.#file = await open(this.#path, "w", 0o600);
    this.#fileBytes = 0;
  }
}

/** Reads all records of a log, oldest first, across its rotated files. An incomplete last record is left out. */
export function* readContainerLog(path: string): Generator<LogRecord> {
  for (const file of rotatedFiles(path)) {
    const decoder = new LogDecoder();
    const fd = openSync(file, "r");
    try {
      const chunk = Buffer.alloc(1024 * 1024);
      for (let read = readSync(fd, chunk); read > 0; read = readSync(fd, chunk)) yield* decoder.push(Buffer.from(chunk.subarray(0, read)));
    } finally {
      closeSync(fd);
    }
  }
}

/** Follows a growing log from a file position on: new records since the last call; survives rotation. */
export class LogFollower {
  readonly #path: string;
  #fd: number | undefined;
  #decoder = new LogDecoder();

  constructor(path: string) {
    this.#path = path;
  }

  /** Records that have been added. The first call yields everything there is in the current file. */
  poll(): LogRecord[] {
    const records = this.#read();
    if (this.#fd === undefined || !this.#rotatedAway(this.#fd)) return records;
    records.push(...this.#read()); // what came between the read above and the rotation
    this.close();
    return [...records, ...this.#read()];
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
    this.#decoder = new LogDecoder();
  }

  #read(): LogRecord[] {
    try {
      this.#fd ??= openSync(this.#path, "r");
    } catch (error) {
      if (isErrnoException(error, "ENOENT")) return [];
      throw error;
    }
    const records: LogRecord[] = [];
    const chunk = Buffer.alloc(1024 * 1024);
    for (let read = readSync(this.#fd, chunk); read > 0; read = readSync(this.#fd, chunk)) records.push(...this.#decoder.push(Buffer.from(chunk.subarray(0, read))));
    return records;
  }

  #rotatedAway(fd: number): boolean {
    try {
      return statSync(this.#path).ino !== fstatSync(fd).ino;
    } catch (error) {
      if (isErrnoException(error, "ENOENT")) return false;
      throw error;
    }
  }
}

function rotatedFiles(path: string): string[] {
  const candidates = [...Array(9).keys()].map((index) => `${path}.${9 - index}`).concat(path);
  return candidates.filter((file) => {
    try {
      return statSync(file).isFile();
    } catch (error) {
      if (isErrnoException(error, "ENOENT")) return false;
      throw error;
    }
  });
}
