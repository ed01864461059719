import { RuntimeError } from "../../../shared/base/errors.ts";
import type { HealthCheck } from "../../store/health.ts";

/** What an image says about running it (OCI image-spec, config.md). Absent fields are empty. */
export interface ImageConfig {
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly env: readonly string[];
  readonly workingDir: string;
  readonly user: string;
  readonly stopSignal: string;
  /** `80/tcp`. */
  readonly exposedPorts: readonly string[];
  readonly volumes: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly architecture: string;
  readonly os: string;
  /** RFC 3339, or empty. */
  readonly created: string;
  /** docker's HEALTHCHECK, as far as it is given. */
  readonly healthcheck?: Partial<HealthCheck>;
  /** Digests of the uncompressed layers, lowest first. */
  readonly diffIds: readonly string[];
}

/** What an image is made of (OCI image-spec, manifest.md). */
export interface ImageManifest {
  readonly config: BlobReference;
  /** Lowest first. */
  readonly layers: readonly BlobReference[];
}

interface BlobReference {
  /** `sha256:` and 64 hexadecimal digits. */
  readonly digest: string;
  readonly sizeBytes: number;
}

const digestPattern = /^sha256:[0-9a-f]{64}$/;

/** Parses an image's manifest blob. @throws RuntimeError `data_loss` (reason `image_corrupt`) naming the bad field. */
export function parseImageManifest(text: string): ImageManifest {
  const root = object(json(text, "manifest"), "manifest");
  const layers = root["layers"];
  if (!Array.isArray(layers)) throw bad("manifest.layers", "a list");
  return { config: blobReference(root["config"], "manifest.config"), layers: layers.map((layer: unknown, index) => blobReference(layer, `manifest.layers[${index}]`)) };
}

/** Parses an image's config blob. @throws RuntimeError `data_loss` (reason `image_corrupt`) naming the bad field. */
export function parseImageConfig(text: string): ImageConfig {
  const root = object(json(text, "config"), "config");
  const config = object(root["config"] ?? {}, "config.config");
  const rootfs = object(root["rootfs"] ?? {}, "config.rootfs");
  return {
    entrypoint: strings(config["Entrypoint"], "Entrypoint"),
    cmd: strings(config["Cmd"], "Cmd"),
    env: strings(config["Env"], "Env"),
    workingDir: string(config["WorkingDir"], "WorkingDir"),
    user: string(config["User"], "User"),
    stopSignal: string(config["StopSignal"], "StopSignal"),
    exposedPorts: Object.keys(object(config["ExposedPorts"] ?? {}, "ExposedPorts")),
    volumes: Object.keys(object(config["Volumes"] ?? {}, "Volumes")),
    labels: Object.fromEntries(Object.entries(object(config["Labels"] ?? {}, "Labels")).map(([name, label]) => [name, string(label, "Labels")])),
    architecture: string(root["architecture"], "architecture"),
    os: string(root["os"], "os"),
    created: string(root["created"], "created"),
    diffIds: strings(rootfs["diff_ids"], "rootfs.diff_ids"),
    ...(config["Healthcheck"] !== undefined && config["Healthcheck"] !== null && { healthcheck: parseHealthcheck(config["Healthcheck"]) }),
  };
}

/** docker's HEALTHCHECK of an image: times in nanoseconds, 0 for what is not given. @throws RuntimeError `data_loss` (reason `image_corrupt`). */
export function parseHealthcheck(value: unknown): Partial<HealthCheck> {
  const { Test, Interval, Timeout, Retries, StartPeriod } = object(value, "Healthcheck");
  const test = strings(Test, "Healthcheck.Test");
  const given = (field: string, found: unknown, unit: number): number | undefined => {
    if (found === undefined || found === null || found === 0) return undefined;
    if (typeof found !== "number" || !Number.isFinite(found) || found < 0) throw bad(`Healthcheck.${field}`, "a number");
    return Math.max(1, Math.round(found / unit));
  };
  const fields = { intervalMs: given("Interval", Interval, 1e6), timeoutMs: given("Timeout", Timeout, 1e6), retries: given("Retries", Retries, 1), startPeriodMs: given("StartPeriod", StartPeriod, 1e6) };
  return { ...(test.length > 0 && { test }), ...Object.fromEntries(Object.entries(fields).filter(([, number]) => number !== undefined)) };
}

function json(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new RuntimeError("data_loss", `image ${what} is not JSON`, { cause: error, reason: "image_corrupt", hint: "pull the image again" });
  }
}

function blobReference(value: unknown, field: string): BlobReference {
  const { digest, size } = object(value, field);
  if (typeof digest !== "string" || !digestPattern.test(digest)) throw bad(`${field}.digest`, "sha256: and 64 hexadecimal digits");
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) throw bad(`${field}.size`, "a number of bytes");
  return { digest, sizeBytes: size };
}

function object(value: unknown, field: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw bad(field, "an object");
  return value as Record<string, unknown>; // just checked
}

function string(value: unknown, field: string): string {
  if (value === undefined || value === null) return "";
  if (typeof value !== "string") throw bad(field, "a string");
  return value;
}

function strings(value: unknown, field: string): string[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value) || !value.every((item) => typeof item === "string")) throw bad(field, "a list of strings");
  return value;
}

function bad(field: string, expected: string): RuntimeError {
  return new RuntimeError("data_loss", `image config: ${field} must be ${expected}`, { reason: "image_corrupt", hint: "pull the image again" });
}
