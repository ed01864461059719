import { describeError } from "../../shared/base/errors.ts";
import type { Logger } from "../../shared/base/log.ts";
import { partsInTime, type StepCall, type TimedPart } from "../../shared/base/step-calls.ts";
import type { StepRun } from "../../shared/base/steps.ts";
import { kernelRandomBytes } from "../../shared/linux/random.ts";
import type { Tracing } from "./tracing.ts";

/** An operation whose last step ended that long ago is over, and what is ready is sent. */
const flushMs = 1_000;
/** A collector that does not answer costs no more than this, and no sandbox anything. */
const sendTimeoutMs = 5_000;
/** Beyond that many spans the oldest are dropped. */
const maxPending = 2_000;
/** OTLP's SPAN_KIND_INTERNAL and STATUS_CODE_ERROR. */
const spanKindInternal = 1, statusError = 2;

/** Where the spans go, and whose they are. */
interface ExporterOptions {
  readonly endpoint: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly serviceName: string;
  readonly sandboxId: string;
  readonly log: Logger;
}

interface Span {
  readonly spanId: string;
  readonly parentSpanId: string;
  readonly name: string;
  readonly startMs: number;
  endMs: number;
  readonly failed: string | undefined;
}

/** An operation whose steps are coming in. */
interface Operation {
  readonly span: Span;
  failed: string | undefined;
}

/** Sends spans by OTLP over HTTP, as JSON (opentelemetry.io/docs/specs/otlp): one for each operation, below it one for each step, below that what it asked of the agent and where the guest's time went. One trace for each owner. */
export class OtlpExporter implements Tracing {
  readonly traceId: string;
  readonly traceparent: string;
  readonly #options: ExporterOptions;
  readonly #operations = new Map<object, Operation>();
  #pending: Span[] = [];
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> = Promise.resolve();

  private constructor(options: ExporterOptions) {
    this.#options = options;
    this.traceId = kernelRandomBytes(16).toString("hex");
    this.traceparent = `00-${this.traceId}-${newSpanId()}-01`;
  }

  static open(options: ExporterOptions): OtlpExporter {
    return new OtlpExporter(options);
  }

  ended({ of, operation, step, startMs, endMs, error, calls }: StepRun): void {
    const failed = error === undefined ? undefined : describeError(error);
    const known = this.#operations.get(of) ?? { span: { spanId: newSpanId(), parentSpanId: "", name: operation, startMs, endMs, failed: undefined }, failed: undefined };
    this.#operations.set(of, known);
    known.span.endMs = endMs;
    known.failed ??= failed;
    const stepSpanId = this.#add(known.span.spanId, { name: step, startMs, endMs }, failed);
    for (const call of calls) this.#addCall(stepSpanId, call);
    if (this.#pending.length > maxPending) this.#pending.splice(0, this.#pending.length - maxPending);
    this.#timer ??= setTimeout(() => this.#flush(), flushMs).unref();
  }

  /** A call to the agent, in it the time that the guest worked on it, and in that the parts of the work. */
  #addCall(stepSpanId: string, call: StepCall): void {
    const callSpanId = this.#add(stepSpanId, { ...call, name: `agent ${call.name}` });
    const inGuest = partsInTime(call);
    if (inGuest === undefined) return;
    const guestSpanId = this.#add(callSpanId, { ...inGuest.whole, name: "in the guest" });
    for (const part of inGuest.parts) this.#add(guestSpanId, part);
  }

  #add(parentSpanId: string, { name, startMs, endMs }: TimedPart, failed?: string): string {
    const spanId = newSpanId();
    this.#pending.push({ spanId, parentSpanId, name, startMs, endMs, failed });
    return spanId;
  }

  async close(): Promise<void> {
    this.#flush(true);
    await this.#sending;
  }

  #flush(all = false): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const now = performance.now();
    for (const [of, { span, failed }] of this.#operations) {
      if (!all && now - span.endMs < flushMs) continue;
      this.#operations.delete(of);
      this.#pending.push({ ...span, failed });
    }
    if (this.#operations.size > 0) this.#timer = setTimeout(() => this.#flush(), flushMs).unref();
    const spans = this.#pending;
    this.#pending = [];
    if (spans.length > 0) this.#sending = this.#sending.then(() => this.#send(spans));
  }

  async #send(spans: readonly Span[]): Promise<void> {
    const { endpoint, headers, log } = this.#options;
    try {
      const response = await fetch(endpoint, { method: "POST", headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(this.#message(spans)), signal: AbortSignal.timeout(sendTimeoutMs) });
      if (!response.ok) log.warn("spans not taken", { status: response.status });
      await response.body?.cancel();
    } catch (error) {
      log.warn("spans not sent", { error: describeError(error) });
    }
  }

  #message(spans: readonly Span[]): object {
    const text = (key: string, value: string): object => ({ key, value: { stringValue: value } });
    return {
      resourceSpans: [{
        resource: { attributes: [text("service.name", this.#options.serviceName), text("casemate.sandbox.id", this.#options.sandboxId)] },
        scopeSpans: [{
          scope: { name: "casemate" },
          spans: spans.map(({ spanId, parentSpanId, name, startMs, endMs, failed }) => ({
            traceId: this.traceId, spanId, ...(parentSpanId !== "" && { parentSpanId }), name, kind: spanKindInternal,
            startTimeUnixNano: unixNanos(startMs), endTimeUnixNano: unixNanos(endMs),
            ...(failed !== undefined && { status: { code: statusError, message: failed } }),
          })),
        }],
      }],
    };
  }
}

function newSpanId(): string {
  return kernelRandomBytes(8).toString("hex");
}

/** JSON's numbers end at 2^53, so OTLP writes 64-bit ones as decimal text. */
function unixNanos(monotonicMs: number): string {
  return String(BigInt(Math.round((performance.timeOrigin + monotonicMs) * 1e3)) * 1_000n);
}
