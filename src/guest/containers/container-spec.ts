import { RuntimeError } from "../../shared/base/errors.ts";
import type { OciProcess, RunnableSpec } from "../../shared/oci/runtime-spec.ts";
import type { Stdio } from "../../shared/protocol/gen/casemate_pb.ts";
import { requireAbsolutePath } from "../paths.ts";
import type { ResolvedUser } from "./user-lookup.ts";

/** A config.json that is larger is not one; with docker's seccomp profile it has 70 KiB. */
const maxSpecBytes = 4 * 1024 * 1024;

/** Parses config.json; checks what the agent itself relies on and leaves the rest to crun. @throws RuntimeError `invalid_argument`. */
export function parseSpec(bytes: Uint8Array): RunnableSpec {
  const spec = parseObject(bytes, "config.json");
  const root = spec["root"];
  if (!isObject(root) || typeof root["path"] !== "string") throw invalid("config.json", "root.path must be a string");
  requireAbsolutePath(root["path"], "root.path");
  requireProcess(spec["process"], "config.json: process");
  const linux = spec["linux"];
  if (linux !== undefined && !isObject(linux)) throw invalid("config.json", "linux must be an object");
  if (spec["mounts"] !== undefined && !isMountList(spec["mounts"])) throw invalid("config.json", "mounts must be objects with a destination");
  return spec as unknown as RunnableSpec; // the fields we use were checked above, crun checks the others
}

/** Parses an OCI `process` object. @throws RuntimeError `invalid_argument`. */
export function parseProcess(bytes: Uint8Array): OciProcess {
  const process = parseObject(bytes, "process");
  requireProcess(process, "process");
  return process as unknown as OciProcess; // checked by requireProcess
}

/** The process as crun gets it: terminal as asked for in the call, user resolved. */
export function prepareProcess(process: OciProcess, stdio: Stdio | undefined, user: ResolvedUser | undefined): OciProcess {
  const size = stdio?.terminalSize;
  const terminal = stdio?.terminal ?? false;
  const { consoleSize: _ignored, ...rest } = process;
  return {
    ...rest,
    terminal,
    ...(terminal && size !== undefined && size.rows > 0 && size.columns > 0 && { consoleSize: { height: size.rows, width: size.columns } }),
    ...(user !== undefined && { user: { ...process.user, uid: user.uid, gid: user.gid, additionalGids: [...new Set([...user.additionalGids, ...process.user.additionalGids ?? []])] } }),
    env: withHome(process.env ?? [], user),
    // Without one crun leaves what it inherits; the value is the one every ordinary process has.
    oomScoreAdj: process.oomScoreAdj ?? 0,
  };
}

/** The spec as crun gets it. The caller's cgroupsPath is for the host; here every container is below one parent. */
export function prepareSpec(spec: RunnableSpec, containerId: string, process: OciProcess): RunnableSpec {
  return { ...spec, process, linux: { ...spec.linux, cgroupsPath: containerCgroup(containerId) } };
}

/** A container's cgroup, below the mount of cgroup2. */
export function containerCgroup(containerId: string): string {
  return `/containers/${containerId}`;
}

/** True when a path may lie on a mount of the container, which does not exist before crun has made it. */
export function liesOnMount(path: string, spec: RunnableSpec): boolean {
  return (spec.mounts ?? []).some(({ destination }) => path === destination || path.startsWith(`${destination.replace(/\/+$/, "")}/`));
}

/** docker's rule: HOME is the user's home folder, or `/` for a user without one, unless the caller set it. */
function withHome(env: readonly string[], user: ResolvedUser | undefined): string[] {
  if (user === undefined || env.some((entry) => entry.startsWith("HOME="))) return [...env];
  return [...env, `HOME=${user.home ?? "/"}`];
}

function requireProcess(process: unknown, what: string): void {
  if (!isObject(process)) throw invalid(what, "must be an object");
  const { args, env, cwd, user } = process;
  if (!isStringList(args) || args.length === 0) throw new RuntimeError("invalid_argument", `${what}: args must name a command`, { reason: "no_command", hint: "give a command: neither the image nor the call names one" });
  if (env !== undefined && !isStringList(env)) throw invalid(what, "env must be strings");
  if (typeof cwd !== "string" || !cwd.startsWith("/")) throw invalid(what, "cwd must be an absolute path");
  if (user !== undefined && !isObject(user)) throw invalid(what, "user must be an object");
}

function parseObject(bytes: Uint8Array, what: string): Record<string, unknown> {
  if (bytes.length > maxSpecBytes) throw invalid(what, `has ${bytes.length} bytes, the limit is ${maxSpecBytes}`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new RuntimeError("invalid_argument", `parse ${what}`, { cause: error });
  }
  if (!isObject(value)) throw invalid(what, "must be a JSON object");
  return value;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isStringList(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

function isMountList(value: unknown): boolean {
  return Array.isArray(value) && value.every((item) => isObject(item) && typeof item["destination"] === "string");
}

function invalid(what: string, why: string): RuntimeError {
  return new RuntimeError("invalid_argument", `${what}: ${why}`, { reason: "spec_invalid" });
}
