import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";
import { Logger } from "../../shared/base/log.ts";
import { SandboxFixture } from "../../../test/support/sandbox-fixture.ts";
import { containerRequest } from "../../../test/support/sandbox-requests.ts";
import { Steps } from "../../shared/base/steps.ts";
import { StepTimes } from "./step-times.ts";
import { parseHeaders, startTracing, tracesEndpoint } from "./tracing.ts";

interface SentSpan { readonly traceId: string; readonly spanId: string; readonly parentSpanId?: string; readonly name: string; readonly startTimeUnixNano: string; readonly endTimeUnixNano: string; readonly status?: { readonly code: number; readonly message: string } }

/** Times are told in whole microseconds. */
const slackNanos = 2_000n;

/** A collector of OTLP over HTTP, as JSON. */
class SpanCollector implements AsyncDisposable {
  readonly spans: SentSpan[] = [];
  headers: NodeJS.Dict<string | string[]> = {};
  readonly #server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const message = JSON.parse(Buffer.concat(chunks).toString()) as { resourceSpans: [{ scopeSpans: [{ spans: SentSpan[] }] }] }; // as #message() writes it
      this.headers = request.headers;
      this.spans.push(...message.resourceSpans[0].scopeSpans[0].spans);
      response.end("{}");
    });
  });

  static async listen(): Promise<SpanCollector> {
    const collector = new SpanCollector();
    collector.#server.listen(0, "127.0.0.1");
    await once(collector.#server, "listening");
    return collector;
  }

  get endpoint(): string {
    const address = this.#server.address();
    return `http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }
}

test("2.6 Tracing: nothing is traced unless the standard variables name a destination", async () => {
  const cases: readonly (readonly [env: NodeJS.ProcessEnv, endpoint: string | undefined])[] = [
    [{}, undefined],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "" }, undefined],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4318/" }, "http://c:4318/v1/traces"],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4318", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "http://t/x" }, "http://t/x"],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4318", OTEL_SDK_DISABLED: "TRUE" }, undefined],
  ];
  for (const [env, endpoint] of cases) assert.equal(tracesEndpoint(env), endpoint);
  assert.equal(await startTracing({}, "s1", new Logger({ write: () => undefined })), undefined);
  assert.deepEqual(parseHeaders("a=1, b=x%20y,=z,c"), { a: "1", b: "x y" });
});

test("1.3 trace, 2.6 Tracing: an operation is a span, its steps are its children, a failure says why", async () => {
  await using collector = await SpanCollector.listen();
  const tracing = await startTracing({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.endpoint, OTEL_EXPORTER_OTLP_HEADERS: "authorization=Bearer%20x" }, "s1", new Logger({ write: () => undefined }));
  assert.ok(tracing !== undefined);
  const times = new StepTimes();
  times.forward(tracing);
  const steps = new Steps("make tea", { observer: times });
  await steps.run("boil water", () => undefined);
  await assert.rejects(steps.run("pour", () => { throw new Error("spilt"); }));
  await tracing.close();
  const { headers, spans } = collector;
  assert.equal(headers["authorization"], "Bearer x");
  const root = spans.find(({ name }) => name === "make tea");
  assert.deepEqual(spans.map(({ name, parentSpanId, status }) => [name, parentSpanId, status?.code]), [["boil water", root?.spanId, undefined], ["pour", root?.spanId, 2], ["make tea", undefined, 2]]);
  assert.ok(spans.every(({ traceId, startTimeUnixNano, endTimeUnixNano }) => traceId === tracing.traceId && BigInt(startTimeUnixNano) <= BigInt(endTimeUnixNano)));
  assert.match(spans[1]?.status?.message ?? "", /spilt/);
  assert.deepEqual(times.kept.map(({ operation, step }) => [operation, step]), [["make tea", "boil water"], ["make tea", "pour"]]);
});

test("2.6 Tracing: what a step asks of the agent is a span of it, with the guest's times below; what a guest makes up is left out", async () => {
  await using collector = await SpanCollector.listen();
  const tracing = await startTracing({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.endpoint }, "s1", new Logger({ write: () => undefined }));
  assert.ok(tracing !== undefined);
  using fixture = await SandboxFixture.open();
  const times = new StepTimes();
  times.forward(tracing);
  fixture.observer = times;
  const sandbox = await fixture.create();
  fixture.agent.part = "crun create";
  await sandbox.createContainer(containerRequest("c1"), { timeoutMs: 5_000 });
  fixture.agent.part = "\u001b[2J";
  await sandbox.startContainer("c1", { timeoutMs: 5_000 });
  await sandbox.stop(0);
  await tracing.close();
  const { spans } = collector;
  const path = (span: SentSpan | undefined): string[] => (span === undefined ? [] : [...path(spans.find(({ spanId }) => spanId === span.parentSpanId)), span.name]);
  const part = spans.find(({ name }) => name === "crun create");
  assert.deepEqual(path(part), ['create container "c1"', "create container in the guest", "agent createContainer", "in the guest", "crun create"]);
  for (const span of spans) {
    const parent = spans.find(({ spanId }) => spanId === span.parentSpanId);
    if (parent !== undefined) assert.ok(BigInt(parent.startTimeUnixNano) <= BigInt(span.startTimeUnixNano) + slackNanos && BigInt(span.endTimeUnixNano) <= BigInt(parent.endTimeUnixNano) + slackNanos, path(span).join(" > "));
  }
  assert.ok(spans.some(({ name }) => name === "agent startContainer") && !spans.some(({ name }) => name.includes("[2J")));
  assert.deepEqual([0, 1, 2].map((depth) => times.kept.some((kept) => kept.depth === depth)), [true, true, true]);
});

test("an owner that nobody asked for times asks no guest", async () => {
  using fixture = await SandboxFixture.open();
  const times = new StepTimes();
  fixture.observer = times;
  fixture.agent.part = "crun create";
  const sandbox = await fixture.create();
  await sandbox.stop(0);
  assert.ok(times.kept.length > 0 && times.kept.every(({ depth }) => depth === 0));
});

test("a collector that is not there costs a line in the log and nothing else", async () => {
  const lines: string[] = [];
  const tracing = await startTracing({ OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:9" }, "s1", new Logger({ write: (line) => lines.push(line) }));
  const steps = new Steps("make tea", { ...(tracing !== undefined && { observer: tracing }) });
  await steps.run("boil water", () => undefined);
  await tracing?.close();
  assert.match(lines.join(""), /spans not sent/);
});
