import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";

/** Passes on, stops or hangs up in the middle of a large blob, or refuses everyone. */
export type Behaviour = "stall" | "drop" | "pass" | "unauthorized";

/** Stands in front of a registry, sees what is asked of it, and misbehaves when told so. */
export class RegistryFront {
  readonly address: string;
  behaviour: Behaviour;
  /** Blobs that were asked for, in order. */
  readonly blobsAsked: string[] = [];
  readonly #server: Server;
  #onStall: () => void = () => undefined;
  #waiting: (() => void)[] = [];

  private constructor(server: Server, address: string, behaviour: Behaviour) {
    this.#server = server;
    this.address = address;
    this.behaviour = behaviour;
  }

  static async start(upstream: string, behaviour: Behaviour): Promise<RegistryFront> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("a TCP server without a port");
    const registry = new RegistryFront(server, `127.0.0.1:${address.port}`, behaviour);
    server.on("request", (request: IncomingMessage, response: ServerResponse) => {
      registry.#answer(upstream, request, response).catch((error: unknown) => { response.destroy(error instanceof Error ? error : undefined); });
    });
    return registry;
  }

  /** Resolves when a client waits for the second half of a blob. */
  async stalled(): Promise<void> {
    return new Promise((resolve) => { this.#onStall = resolve; });
  }

  /** Lets everybody have the rest of what they wait for, and more. */
  goOn(): void {
    this.behaviour = "pass";
    for (const finish of this.#waiting.splice(0)) finish();
  }

  async #answer(upstream: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (this.behaviour === "unauthorized") {
      response.writeHead(401, { "WWW-Authenticate": "Basic realm=\"test\"", "Docker-Distribution-Api-Version": "registry/2.0" });
      response.end(JSON.stringify({ errors: [{ code: "UNAUTHORIZED", message: "authentication required" }] }));
      return;
    }
    const accept = request.headers.accept;
    const answer = await fetch(`http://${upstream}${request.url ?? ""}`, { method: request.method ?? "GET", headers: accept === undefined ? {} : { accept } });
    const body = Buffer.from(await answer.arrayBuffer());
    const isLargeBlob = /\/blobs\//.test(request.url ?? "") && body.length > 100_000;
    if (/\/blobs\//.test(request.url ?? "") && request.method === "GET") this.blobsAsked.push(request.url?.split("/").at(-1) ?? "");
    const headers = Object.fromEntries(["content-type", "docker-content-digest", "content-length"].flatMap((name) => (answer.headers.has(name) ? [[name, answer.headers.get(name) ?? ""]] : [])));
    response.writeHead(answer.status, headers);
    if (this.behaviour === "drop" && isLargeBlob) {
      response.write(body.subarray(0, body.length / 2), () => response.destroy());
      return;
    }
    if (this.behaviour !== "stall" || !isLargeBlob) {
      response.end(body);
      return;
    }
    this.#waiting.push(() => { response.end(body.subarray(body.length / 2)); });
    response.write(body.subarray(0, body.length / 2), () => this.#onStall());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
