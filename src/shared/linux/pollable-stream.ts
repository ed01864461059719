import { spawn } from "node:child_process";
import { closeSync } from "node:fs";
import { Socket } from "node:net";
import { RuntimeError } from "../base/errors.ts";
import { trackOwnChild } from "./own-children.ts";

/** libuv's pipe handle: what net.Socket drives for pipes, and can drive for any descriptor that poll(2) knows. */
interface PipeHandle { open(fd: number): number }
type PipeConstructor = new (type: number) => PipeHandle;
/** A handle for data, as opposed to one that listens. */
const pipeTypeSocket = 0;

let constructorOfPipe: PipeConstructor | undefined;

/** Node exports the class nowhere; a child's standard input has an instance (docs/adr/0002). */
function pipeConstructor(): PipeConstructor {
  if (constructorOfPipe === undefined) {
    const child = spawn("/bin/true", { stdio: ["pipe", "ignore", "ignore"] });
    trackOwnChild(child);
    child.on("error", () => { /* the handle exists whether or not the program does */ });
    const handle = (child.stdin as { _handle?: object } | null)?._handle; // undocumented, the same from Node 20 to 26
    if (handle === undefined) throw new RuntimeError("internal", "this Node has no pipe handle on a child's standard input");
    constructorOfPipe = handle.constructor as PipeConstructor; // the class of the instance
    child.stdin?.destroy();
  }
  return constructorOfPipe;
}

/**
 * A stream on a descriptor that poll(2) can wait for: a virtio port, a PTY master, a vsock. It never
 * blocks and has back-pressure; it owns the descriptor from now on. Not for regular files or /dev/null:
 * libuv ends the process on those.
 */
export function pollableStream(fd: number): Socket {
  const handle = new (pipeConstructor())(pipeTypeSocket);
  const result = handle.open(fd);
  if (result !== 0) {
    closeSync(fd);
    throw new RuntimeError("internal", `open stream on descriptor ${fd}: libuv error ${result}`);
  }
  // `handle` is taken by net.Socket though its types do not say so.
  return new Socket({ handle, readable: true, writable: true, allowHalfOpen: true } as ConstructorParameters<typeof Socket>[0]);
}
