import type { MessageInitShape } from "@bufbuild/protobuf";
import type { BigIntStats } from "node:fs";
import { lstat, readlink } from "node:fs/promises";
import type { FileFactsSchema } from "../../shared/protocol/gen/file_pb.ts";

export type FileFactsInit = MessageInitShape<typeof FileFactsSchema>;

const maxInt64 = 2n ** 63n - 1n;

/** Facts about a file from what the kernel says of it. */
export function toFacts(stats: BigIntStats, name: Uint8Array, linkTarget: Uint8Array): FileFactsInit {
  return {
    name, linkTarget,
    mode: Number(stats.mode), uid: Number(stats.uid), gid: Number(stats.gid),
    sizeBytes: stats.size,
    // A file system may hold times that the protocol's 64 bits cannot.
    modifiedUnixNanos: stats.mtimeNs > maxInt64 ? maxInt64 : stats.mtimeNs,
  };
}

/** Facts about what is at a safe path (see container-root.ts); of a link about itself. */
export async function factsAt(path: Buffer, name: Uint8Array = new Uint8Array()): Promise<FileFactsInit> {
  const stats = await lstat(path, { bigint: true });
  return toFacts(stats, name, stats.isSymbolicLink() ? await readlink(path, { encoding: "buffer" }) : new Uint8Array());
}
