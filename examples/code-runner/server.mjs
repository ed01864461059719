// A server that runs submitted code, each request in a virtual machine of its own:
//
//   POST /run   {"language": "sh", "code": "echo $((6*7))", "stdin": ""}
//   answers     {"stdout": "42\n", "stderr": "", "exitCode": 0, "durationMs": 31, "limit": null}
//
// PORT chooses the port (default: 8000); 0 takes a free one. The first line printed says which.
import { createServer } from "node:http";
import { RunError, RuntimeError, Sandbox } from "casemate";

/** What can be run: an image, the file that the code is written to, and the command that runs it. */
const languages = {
  sh: { image: "busybox", file: "/work/main.sh", command: ["sh", "/work/main.sh"] },
  awk: { image: "busybox", file: "/work/main.awk", command: ["awk", "-f", "/work/main.awk"] },
  // These need an image registry:
  python: { image: "docker.io/library/python:3-alpine", file: "/work/main.py", command: ["python3", "/work/main.py"] },
  javascript: { image: "docker.io/library/node:24-alpine", file: "/work/main.mjs", command: ["node", "/work/main.mjs"] },
};

/** What one request may use. */
const limits = { requestBytes: 256 * 1024, memoryMiB: 128, cpus: 1, runMs: 5_000, outputBytes: 64 * 1024, sandboxMs: 60_000 };

/** A refusal that is the caller's business, with its status. */
class BadRequest extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function runCode({ language, code, stdin = "" }, signal) {
  const kind = Object.hasOwn(languages, language ?? "") ? languages[language] : undefined;
  if (kind === undefined) throw new BadRequest(400, `language must be one of ${Object.keys(languages).join(", ")}`);
  if (typeof code !== "string" || typeof stdin !== "string") throw new BadRequest(400, "code and stdin must be strings");
  // No network, little memory, and an end that does not depend on this program.
  await using sandbox = await Sandbox.create({ image: kind.image, network: "none", memoryMiB: limits.memoryMiB, cpus: limits.cpus, timeoutMs: limits.sandboxMs, signal });
  await sandbox.files.mkdir("/work");
  await sandbox.files.write(kind.file, code);
  const began = performance.now();
  const answer = ({ stdout, stderr }, exitCode, limit) => ({ stdout, stderr, exitCode, durationMs: Math.round(performance.now() - began), limit });
  try {
    const result = await sandbox.run(kind.command, { stdin, cwd: "/work", timeoutMs: limits.runMs, maxOutputBytes: limits.outputBytes, signal });
    return answer(result, result.exitCode, result.oomKilled ? "memory" : null);
  } catch (error) {
    if (!(error instanceof RunError)) throw error;
    return answer(error, null, { deadline_exceeded: "time", resource_exhausted: "output" }[error.code] ?? error.code);
  }
}

async function readJson(request) {
  const chunks = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += chunk.length;
    if (bytes > limits.requestBytes) throw new BadRequest(413, `a request may have ${limits.requestBytes} bytes`);
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString());
  } catch {
    throw new BadRequest(400, "the request must be JSON");
  }
}

const server = createServer(async (request, response) => {
  // A caller that hangs up ends its sandbox.
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  const send = (status, body) => response.writeHead(status, { "content-type": "application/json" }).end(`${JSON.stringify(body)}\n`);
  try {
    if (request.method !== "POST" || request.url !== "/run") throw new BadRequest(404, "POST /run is all there is");
    send(200, await runCode(await readJson(request) ?? {}, gone.signal));
  } catch (error) {
    if (error instanceof BadRequest) send(error.status, { error: error.message });
    else if (RuntimeError.is(error, "resource_exhausted")) send(503, { error: "no room for another sandbox now" });
    else if (!gone.signal.aborted) {
      console.error(error);
      send(500, { error: "the code could not be run" });
    }
  }
});
server.listen(Number(process.env.PORT ?? 8000), "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
