// A tool for an AI agent: `runCode` keeps one sandbox for a conversation, so that files stay between calls.
// No model is behind it here; main.mjs plays one.
import { RunError, Sandbox } from "casemate";

/** What a model is told about the tool; the shape that model APIs take. */
export const definition = {
  name: "runCode",
  description: "Runs a shell script in an isolated Linux virtual machine without network. Files in /work stay between calls.",
  input_schema: {
    type: "object",
    properties: {
      script: { type: "string", description: "the script, for sh" },
      files: { type: "object", description: "files to write before, by name below /work", additionalProperties: { type: "string" } },
    },
    required: ["script"],
  },
};

/** What a model gets to read at most; more would only fill its context. */
const maxResultBytes = 16 * 1024;

/** One conversation's machine, started by the first call. */
export class CodeTool {
  #sandbox;
  #options;

  /** `options` as those of Sandbox.create. */
  constructor(options = {}) {
    this.#options = { image: "busybox", network: "none", memoryMiB: 256, cpus: 1, idleTimeoutMs: 10 * 60_000, ...options };
  }

  /** Runs what a model asked for. Always answers with text that the model can go on from; never throws for what its script did. */
  async call({ script, files = {} }, { signal, timeoutMs = 20_000 } = {}) {
    const sandbox = await this.#open(signal);
    for (const [name, content] of Object.entries(files)) {
      const path = `/work/${name}`; // beneath the sandbox's own root, whatever the name is
      await sandbox.files.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
      await sandbox.files.write(path, content);
    }
    try {
      const { stdout, stderr, exitCode } = await sandbox.run(script, { cwd: "/work", timeoutMs, maxOutputBytes: maxResultBytes, signal });
      return describe(stdout, stderr, `exit code ${exitCode}`);
    } catch (error) {
      if (!(error instanceof RunError) || error.code === "canceled") throw error;
      return describe(error.stdout, error.stderr, error.code === "deadline_exceeded" ? `killed: not done within ${timeoutMs / 1000} s` : `killed: more than ${maxResultBytes} bytes of output`);
    }
  }

  async #open(signal) {
    // Started once; a call that came while it starts waits for the same one.
    this.#sandbox ??= Sandbox.create({ ...this.#options, signal }).then(async (sandbox) => {
      await sandbox.files.mkdir("/work", { recursive: true });
      return sandbox;
    });
    try {
      return await this.#sandbox;
    } catch (error) {
      this.#sandbox = undefined;
      throw error;
    }
  }

  async [Symbol.asyncDispose]() {
    const sandbox = await this.#sandbox?.catch(() => undefined);
    await sandbox?.close();
  }
}

function describe(stdout, stderr, end) {
  return [stdout, stderr === "" ? "" : `[stderr]\n${stderr}`, `[${end}]`].filter((part) => part !== "").join("\n");
}
