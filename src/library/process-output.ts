import { PassThrough } from "node:stream";
import { StringDecoder } from "node:string_decoder";

/** Bytes kept here for a reader that is slower than the process; then the process waits. */
const bufferBytes = 256 * 1024;

/**
 * Output of a process: a readable stream of Node's, and lines. What nobody reads holds the process
 * back after half a MiB, as a pipe would.
 *
 * @example
 * for await (const line of process.stdout.lines()) console.log(line);
 */
export class ProcessOutput extends PassThrough {
  constructor() {
    super({ highWaterMark: bufferBytes });
  }

  /**
   * Line by line, without the ends of the lines.
   *
   * @example
   * for await (const line of sandbox.spawn("cat /etc/passwd").stdout.lines()) console.log(line.split(":")[0]);
   */
  async *lines(): AsyncGenerator<string, void, undefined> {
    const decoder = new StringDecoder("utf8");
    let rest = "";
    for await (const chunk of this as AsyncIterable<Buffer>) {
      const parts = (rest + decoder.write(chunk)).split("\n");
      rest = parts.pop() ?? "";
      for (const line of parts) yield line.endsWith("\r") ? line.slice(0, -1) : line;
    }
    rest += decoder.end();
    if (rest !== "") yield rest;
  }

  /**
   * All of it as text.
   *
   * @example
   * const text = await sandbox.spawn(["uname", "-a"]).stdout.text();
   */
  async text(): Promise<string> {
    const chunks: Buffer[] = [];
    for await (const chunk of this as AsyncIterable<Buffer>) chunks.push(chunk);
    return Buffer.concat(chunks).toString();
  }
}
