import { closeSync } from "node:fs";
import { Socket } from "node:net";
import { RuntimeError } from "../base/errors.ts";
import { call } from "./libc.ts";

/** libuv's pipe handle: what net.Socket drives for pipes, and can drive for any descriptor that poll(2) knows. */
interface PipeHandle { open(fd: number): number }
type PipeConstructor = new (type: number) => PipeHandle;
/** A handle for data, as opposed to one that listens. */
const pipeTypeSocket = 0;

let constructorOfPipe: PipeConstructor | undefined;
const O_CLOEXEC = 0o2000000;

/** Node exports the class nowhere; a socket on a pipe has an instance (docs/adr/0002). No process is started for it: in a VM under emulation that would cost tens of milliseconds. */
function pipeConstructor(): PipeConstructor {
  if (constructorOfPipe === undefined) {
    const pair = Buffer.alloc(8);
    call("int pipe2(void *, int)", pair, O_CLOEXEC);
    const probe = new Socket({ fd: pair.readInt32LE(0), readable: true, writable: false });
    closeSync(pair.readInt32LE(4));
    const handle = (probe as { _handle?: object | null })._handle; // undocumented, the same from Node 20 to 26
    probe.destroy();
    if (handle === undefined || handle === null) throw new RuntimeError("internal", "this Node has no pipe handle on a socket");
    constructorOfPipe = handle.constructor as PipeConstructor; // the class of the instance
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
