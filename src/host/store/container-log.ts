import { closeSync, fstatSync, openSync, readSync, renameSync, statSync, truncateSync } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { setAside } from "./state-file.ts";

/** One piece of output; docs/log-format.md draws the bytes. */
export interface LogRecord {
  /** 1 stdout, 2 stderr; 0 for a mark: what follows belongs to the run that began at `unixNanos`, whose offsets count from 0. */
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

/** Where a log ends: the run it is about, and how much of each stream it holds. */
export interface LogEnd {
  /** Undefined: a log without marks, or without anything. */
  readonly runId: bigint | undefined;
  /** By descriptor: the offset after the last byte of the run. */
  readonly offsets: ReadonlyMap<number, number>;
}

/** Options of {@link ContainerLogWriter.open}. */
export interface LogOptions {
  readonly maxFileBytes?: number;
  readonly maxFiles?: number;
}

/**
 * Appends a container's output to its log and rotates it: `log`, `log.1`, `log.2`. Writes are in the
 * order of the calls. Each run of the container, and each file, begins with a mark.
 */
export class ContainerLogWriter {
  readonly path: string;
  /** When the run began, in nanoseconds; tells runs apart. */
  readonly runId: bigint;
  readonly #maxFileBytes: number;
  readonly #maxFiles: number;
  #file: FileHandle;
  #fileBytes: number;
  #tail: Promise<void> = Promise.resolve();
  #queued: LogRecord[] = [];
  #failure: RuntimeError | undefined;

  private constructor(path: string, file: FileHandle, fileBytes: number, runId: bigint, options: LogOptions) {
    this.path = path;
    this.runId = runId;
    this.#file = file;
    this.#fileBytes = fileBytes;
    this.#maxFileBytes = options.maxFileBytes ?? defaultMaxFileBytes;
    this.#maxFiles = options.maxFiles ?? defaultMaxFiles;
  }

  /** Opens the log for a new run of its container. */
  static async open(path: string, options: LogOptions = {}): Promise<ContainerLogWriter> {
    cutIncomplete(path);
    const writer = await ContainerLogWriter.#append(path, newRunId(), options);
    writer.#queue(writer.#mark());
    await writer.flushed();
    return writer;
  }

  /** Opens the log for the run it ends with, whose writer has died. A record that was being written is cut off. */
  static async resume(path: string, options: LogOptions = {}): Promise<{ readonly writer: ContainerLogWriter; readonly end: LogEnd }> {
    cutIncomplete(path);
    const end = findLogEnd(path);
    if (end.runId === undefined) return { writer: await ContainerLogWriter.open(path, options), end };
    return { writer: await ContainerLogWriter.#append(path, end.runId, options), end };
  }

  static async #append(path: string, runId: bigint, options: LogOptions): Promise<ContainerLogWriter> {
    const file = await open(path, "a", 0o600);
    const { size } = await file.stat();
    return new ContainerLogWriter(path, file, size, runId, options);
  }

  /** The first failure to write, e.g. a full disk. Output after it is dropped so that the workload goes on. */
  get failure(): RuntimeError | undefined {
    return this.#failure;
  }

  /** Resolves when the record has been handed to the kernel (or dropped after a failure). */
  append(record: LogRecord): Promise<void> {
    this.#queue(record);
    return this.#tail;
  }

  /** Resolves when everything appended before has been handed to the kernel. */
  async flushed(): Promise<void> {
    await this.#tail;
  }

  async close(): Promise<void> {
    await this.#tail;
    await this.#file.close();
  }

  #queue(record: LogRecord): void {
    this.#queued.push(record);
    if (this.#queued.length === 1) this.#tail = this.#tail.then(() => this.#flush());
  }

  #mark(): LogRecord {
    return { fd: 0, offset: 0, unixNanos: this.runId, bytes: new Uint8Array() };
  }

  /** Writes everything that has queued up since the last flush with one system call. */
  async #flush(): Promise<void> {
    const batch = this.#queued;
    this.#queued = [];
    if (this.#failure !== undefined) return;
    const pieces = batch.flatMap((record) => [encodeLogHeader(record), record.bytes]);
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
    try {
      if (this.#fileBytes > headerBytes && this.#fileBytes + length > this.#maxFileBytes) await this.#rotate();
      await this.#file.writev(pieces);
      this.#fileBytes += length;
    } catch (error) {
      this.#failure = RuntimeError.wrap(error, `write log "${this.path}"`);
    }
  }

  async #rotate(): Promise<void> {
    await this.#file.close();
    for (let index = this.#maxFiles - 1; index >= 1; index--) {
      try {
        renameSync(index === 1 ? this.path : `${this.path}.${index - 1}`, `${this.path}.${index}`);
      } catch (error) {
        if (!isErrnoException(error, "ENOENT")) throw error;
      }
    }
    this.#file = await open(this.path, "w", 0o600);
    const mark = encodeLogHeader(this.#mark());
    await this.#file.writev([mark]);
    this.#fileBytes = mark.length;
  }
}

/** Reads all records of a log, oldest first, across its rotated files. An incomplete last record is left out. */
export function* readContainerLog(path: string): Generator<LogRecord> {
  for (const file of rotatedFiles(path)) {
    const fd = openSync(file, "r");
    try {
      for (const { records } of readBatches(fd, 0)) yield* records;
    } finally {
      closeSync(fd);
    }
  }
}

/** The output of one run, oldest first; what was rotated away is missing. */
export function* readLogRun(path: string, runId: bigint): Generator<LogRecord> {
  let inRun = false;
  for (const record of readContainerLog(path)) {
    if (record.fd === 0) inRun = record.unixNanos === runId;
    else if (inRun) yield record;
  }
}

/** The time in nanoseconds, as fine as this clock has it: two runs may begin within a millisecond. */
function newRunId(): bigint {
  return BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e3)) * 1_000n;
}

function findLogEnd(path: string): LogEnd {
  let runId: bigint | undefined;
  const offsets = new Map<number, number>();
  for (const { fd, offset, unixNanos, bytes } of readContainerLog(path)) {
    if (fd !== 0) {
      offsets.set(fd, offset + bytes.length);
    } else if (unixNanos !== runId) {
      runId = unixNanos;
      offsets.clear();
    }
  }
  return { runId, offsets };
}

/** Cuts off a record that a writer which died has not finished: what came after it could not be read. */
function cutIncomplete(path: string): void {
  let end = 0;
  try {
    const fd = openSync(path, "r");
    try {
      for (const batch of readBatches(fd, 0)) end = batch.end;
      if (fstatSync(fd).size > end) truncateSync(path, end);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return;
    if (!RuntimeError.is(error, "data_loss")) throw error;
    setAside(path); // the log goes on in a new file
  }
}

/**
 * Reads whole records from a position on, some at a time. Each read begins at the end of a record, so
 * that it does not matter when the unfinished one behind it is cut off and written anew.
 */
function* readBatches(fd: number, position: number): Generator<{ readonly records: readonly LogRecord[]; readonly end: number }> {
  for (let end = position; ;) {
    const availableBytes = fstatSync(fd).size - end;
    if (availableBytes < headerBytes) return;
    const chunk = Buffer.alloc(Math.min(availableBytes, headerBytes + maxRecordBytes));
    const read = readSync(fd, chunk, 0, chunk.length, end);
    const decoder = new LogDecoder();
    const records = decoder.push(chunk.subarray(0, read));
    if (records.length === 0) return;
    end += read - decoder.pendingBytes;
    yield { records, end };
  }
}

/** Follows a growing log from a file position on: new records since the last call; survives rotation. */
export class LogFollower {
  readonly #path: string;
  #fd: number | undefined;
  /** In the file, at the end of a record. */
  #position = 0;

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
    this.#position = 0;
  }

  #read(): LogRecord[] {
    try {
      this.#fd ??= openSync(this.#path, "r");
    } catch (error) {
      if (isErrnoException(error, "ENOENT")) return [];
      throw error;
    }
    const found: LogRecord[] = [];
    for (const { records, end } of readBatches(this.#fd, this.#position)) {
      found.push(...records);
      this.#position = end;
    }
    return found;
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
