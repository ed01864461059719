import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";
import { Logger } from "../../shared/base/log.ts";
import { Steps } from "../../shared/base/steps.ts";
import { StepTimes } from "./step-times.ts";
import { parseHeaders, startTracing, tracesEndpoint } from "./tracing.ts";

interface SentSpan { readonly traceId: string; readonly spanId: string; readonly parentSpanId?: string; readonly name: string; readonly startTimeUnixNano: string; readonly endTimeUnixNano: string; readonly status?: { readonly code: number; readonly message: string } }

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
  const received: { readonly headers: NodeJS.Dict<string | string[]>; readonly spans: readonly SentSpan[] }[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const message = JSON.parse(Buffer.concat(chunks).toString()) as { resourceSpans: [{ scopeSpans: [{ spans: SentSpan[] }] }] }; // as #message() writes it
      received.push({ headers: request.headers, spans: message.resourceSpans[0].scopeSpans[0].spans });
      response.end("{}");
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  const port = typeof address === "object" ? address?.port : 0;
  const tracing = await startTracing({ OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`, OTEL_EXPORTER_OTLP_HEADERS: "authorization=Bearer%20x" }, "s1", new Logger({ write: () => undefined }));
  assert.ok(tracing !== undefined);
  const times = new StepTimes();
  times.forward(tracing);
  const steps = new Steps("make tea", { observer: times });
  await steps.run("boil water", () => undefined);
  await assert.rejects(steps.run("pour", () => { throw new Error("spilt"); }));
  await tracing.close();
  server.close();
  const [{ headers, spans } = { headers: {}, spans: [] }] = received;
  assert.equal(headers["authorization"], "Bearer x");
  const root = spans.find(({ name }) => name === "make tea");
  assert.deepEqual(spans.map(({ name, parentSpanId, status }) => [name, parentSpanId, status?.code]), [["boil water", root?.spanId, undefined], ["pour", root?.spanId, 2], ["make tea", undefined, 2]]);
  assert.ok(spans.every(({ traceId, startTimeUnixNano, endTimeUnixNano }) => traceId === tracing.traceId && BigInt(startTimeUnixNano) <= BigInt(endTimeUnixNano)));
  assert.match(spans[1]?.status?.message ?? "", /spilt/);
  assert.deepEqual(times.kept.map(({ operation, step }) => [operation, step]), [["make tea", "boil water"], ["make tea", "pour"]]);
});

test("a collector that is not there costs a line in the log and nothing else", async () => {
  const lines: string[] = [];
  const tracing = await startTracing({ OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:9" }, "s1", new Logger({ write: (line) => lines.push(line) }));
  const steps = new Steps("make tea", { ...(tracing !== undefined && { observer: tracing }) });
  await steps.run("boil water", () => undefined);
  await tracing?.close();
  assert.match(lines.join(""), /spans not sent/);
});
