import type { MessageInitShape } from "@bufbuild/protobuf";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { FileAttributesSchema, FileFacts, FileRequestSchema, FileResponse } from "../../shared/protocol/gen/file_pb.ts";
import type { OwnerClient } from "../control/owner-client.ts";
import { readOpenFile, writeOpenFile, type OpenFileCalls } from "./file-transfer.ts";

export type FileOperation = NonNullable<MessageInitShape<typeof FileRequestSchema>["operation"]>;
export type FileAttributesInit = MessageInitShape<typeof FileAttributesSchema>;
/** Bytes where a name is not UTF-8. */
export type ContainerPath = string | Uint8Array;

/** How a file is written. */
export interface WriteFileOptions {
  /** Add to what is there instead of replacing it. */
  readonly append?: boolean;
  readonly attributes?: FileAttributesInit | undefined;
}

/** Work on the files of one container, through its owner. Errors carry the code of the system's error. */
export class ContainerFileClient {
  readonly #owner: () => Promise<OwnerClient["owner"]>;
  readonly #containerId: string;
  readonly #signal: AbortSignal | undefined;

  constructor(owner: () => Promise<OwnerClient["owner"]>, containerId: string, signal?: AbortSignal) {
    this.#owner = owner;
    this.#containerId = containerId;
    this.#signal = signal;
  }

  /** The same, but what is under way when the signal comes is given up (`canceled`). */
  until(signal: AbortSignal | undefined): ContainerFileClient {
    return signal === undefined ? this : new ContainerFileClient(this.#owner, this.#containerId, signal);
  }

  /** What the path leads to; with `followLink` false a link itself. */
  async stat(path: ContainerPath, followLink = true): Promise<FileFacts> {
    const { facts } = await this.perform(path, { case: "stat", value: { followLink } });
    if (facts === undefined) throw new RuntimeError("internal", "the agent answered without facts");
    return facts;
  }

  /** What is in a folder, in the order of names; links as themselves. */
  async *list(path: ContainerPath): AsyncGenerator<FileFacts> {
    for (let skip = 0, more = true; more;) {
      const answer = await this.perform(path, { case: "list", value: { skip } });
      yield* answer.entries;
      skip += answer.entries.length;
      more = answer.more && answer.entries.length > 0;
    }
  }

  /** The content of a regular file, in pieces; `whole`: in few large ones. */
  async *read(path: ContainerPath, options: { readonly whole?: boolean } = {}): AsyncGenerator<Uint8Array> {
    const { handle, facts } = await this.perform(path, { case: "open", value: {} });
    try {
      yield* readOpenFile(this.#openFile(path, handle), Number(facts?.sizeBytes ?? 0n), options);
    } finally {
      await this.#close(path, handle);
    }
  }

  /** Makes or replaces a file. */
  async write(path: ContainerPath, content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, options: WriteFileOptions = {}): Promise<void> {
    const { append = false, attributes } = options;
    const { handle } = await this.perform(path, { case: "open", value: { write: true, append, ...(attributes && { attributes }) } });
    try {
      await writeOpenFile(this.#openFile(path, handle), content, { append });
    } finally {
      await this.#close(path, handle);
    }
  }

  async makeFolder(path: ContainerPath, options: { readonly recursive: boolean; readonly attributes?: FileAttributesInit | undefined }): Promise<void> {
    await this.perform(path, { case: "makeFolder", value: { recursive: options.recursive, ...(options.attributes && { attributes: options.attributes }) } });
  }

  async makeSymlink(path: ContainerPath, target: ContainerPath, attributes?: FileAttributesInit): Promise<void> {
    await this.perform(path, { case: "makeSymlink", value: { target: toBytes(target), ...(attributes && { attributes }) } });
  }

  async rename(path: ContainerPath, to: ContainerPath): Promise<void> {
    await this.perform(path, { case: "rename", value: { to: toBytes(to) } });
  }

  async remove(path: ContainerPath, options: { readonly recursive: boolean; readonly force: boolean }): Promise<void> {
    await this.perform(path, { case: "remove", value: options });
  }

  /** Of a file, folder, or a link itself. */
  async setAttributes(path: ContainerPath, attributes: FileAttributesInit): Promise<void> {
    await this.perform(path, { case: "setAttributes", value: attributes });
  }

  /** Changes in a folder, or of a file, until the signal. Resolves when the watch has begun. */
  async watch(path: ContainerPath, signal: AbortSignal): Promise<AsyncIterable<{ readonly kind: string; readonly name: Uint8Array }>> {
    const owner = await this.#owner();
    const changes = owner.watchFile({ containerId: this.#containerId, path: toBytes(path) }, { signal });
    const iterator = changes[Symbol.asyncIterator]();
    await iterator.next();
    return { [Symbol.asyncIterator]: () => iterator };
  }

  async perform(path: ContainerPath, operation: FileOperation): Promise<FileResponse> {
    return this.#call(path, operation, this.#signal);
  }

  async #call(path: ContainerPath, operation: FileOperation, signal: AbortSignal | undefined): Promise<FileResponse> {
    if (signal?.aborted === true) throw new RuntimeError("canceled", "work on files: canceled", { cause: signal.reason });
    const owner = await this.#owner();
    return owner.file({ containerId: this.#containerId, path: toBytes(path), operation }, { signal });
  }

  #openFile(path: ContainerPath, handle: number): OpenFileCalls {
    return { handle, signal: this.#signal, perform: (operation) => this.perform(path, operation), owner: this.#owner };
  }

  /** Also after the signal. The agent closes it by itself if this call does not reach it. */
  async #close(path: ContainerPath, handle: number): Promise<void> {
    await this.#call(path, { case: "close", value: { handle } }, undefined).catch((error: unknown) => {
      if (!RuntimeError.is(error)) throw error;
    });
  }
}

function toBytes(path: ContainerPath): Uint8Array {
  return typeof path === "string" ? Buffer.from(path) : path;
}
