import type { StepObserver } from "../../shared/base/steps.ts";
import type { Logger } from "../../shared/base/log.ts";

/** The variables of OpenTelemetry's specification that a trace's destination depends on, passed on to owners. */
const tracingVariables = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_SERVICE_NAME", "OTEL_SDK_DISABLED"] as const;

/** Those that are set. */
export function tracingEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(tracingVariables.flatMap((name) => (env[name] === undefined ? [] : [[name, env[name]]])));
}

/** Where spans of a sandbox go. */
export interface Tracing extends StepObserver {
  /** In hexadecimal; log lines carry it. */
  readonly traceId: string;
  /** Sends what is left; never rejects, and is bounded. */
  close(): Promise<void>;
}

/** Spans for each step, when the standard variables name a destination; otherwise nothing of it is loaded. */
export async function startTracing(env: NodeJS.ProcessEnv, sandboxId: string, log: Logger): Promise<Tracing | undefined> {
  const endpoint = tracesEndpoint(env);
  if (endpoint === undefined) return undefined;
  const { OtlpExporter } = await import("./otlp-exporter.ts");
  return OtlpExporter.open({ endpoint, headers: parseHeaders(env["OTEL_EXPORTER_OTLP_TRACES_HEADERS"] ?? env["OTEL_EXPORTER_OTLP_HEADERS"] ?? ""), serviceName: env["OTEL_SERVICE_NAME"] ?? "casemate", sandboxId, log });
}

/** The address of the specification's rules: the one for traces as it is, the general one with its path; undefined: nobody asked. */
export function tracesEndpoint(env: NodeJS.ProcessEnv): string | undefined {
  if (env["OTEL_SDK_DISABLED"]?.toLowerCase() === "true") return undefined;
  const own = env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], general = env["OTEL_EXPORTER_OTLP_ENDPOINT"];
  if (own !== undefined && own !== "") return own;
  return general === undefined || general === "" ? undefined : `${general.replace(/\/+$/, "")}/v1/traces`;
}

/** `key=value,key=value`, values percent-encoded. */
export function parseHeaders(text: string): Record<string, string> {
  return Object.fromEntries(text.split(",").flatMap((pair) => {
    const equals = pair.indexOf("=");
    return equals <= 0 ? [] : [[pair.slice(0, equals).trim(), decodeURIComponent(pair.slice(equals + 1).trim())]];
  }));
}
