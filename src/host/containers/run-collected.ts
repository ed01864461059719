import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Writable } from "node:stream";
import { kernelRandomBytes } from "../../shared/linux/random.ts";
import type { OciProcess } from "../../shared/oci/runtime-spec.ts";
import { ExecSpecSchema } from "../../shared/protocol/gen/owner_pb.ts";
import { AttachClient, type AttachEnd } from "../control/attach-client.ts";
import type { OwnerClient } from "../control/owner-client.ts";
import { doneBefore } from "../control/repeated-calls.ts";

/** What more is printed is dropped. */
const maxOutputBytes = 4 * 1024 * 1024;

/** A process that has run to its end. */
export interface CollectedRun {
  readonly end: AttachEnd;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a further process to its end and takes what it prints; without a container's id in the guest itself. */
export async function runCollected(client: OwnerClient, containerId: string, process: OciProcess, options: Pick<MessageInitShape<typeof ExecSpecSchema>, "user"> = {}): Promise<CollectedRun> {
  const execId = kernelRandomBytes(8).toString("hex");
  const spec = create(ExecSpecSchema, { processJson: Buffer.from(JSON.stringify(process)), holdOutput: true, autoRemove: true, ...options });
  await client.call(async ({ owner }) => { await owner.exec({ containerId, execId, terminal: false, spec }); }, doneBefore.create);
  const stdout = new Collector(), stderr = new Collector();
  const attach = await AttachClient.open(client, { containerId, execId }, { stdin: undefined, stdout, stderr });
  const end = await attach.run();
  return { end, stdout: stdout.text, stderr: stderr.text };
}

/** Keeps what is written, up to a limit. */
class Collector extends Writable {
  readonly #chunks: Buffer[] = [];
  #size = 0;

  get text(): string { return Buffer.concat(this.#chunks).toString(); }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error) => void): void {
    this.#size += chunk.length;
    if (this.#size <= maxOutputBytes) this.#chunks.push(chunk);
    callback();
  }
}
