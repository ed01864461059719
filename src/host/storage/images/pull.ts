import { createHash } from "node:crypto";
import { accessSync, constants, existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { WaitOptions } from "../../../shared/base/deadline.ts";
import { RuntimeError, isErrnoException, type ErrorCode, type ErrorDetails } from "../../../shared/base/errors.ts";
import { runProcess, type RunResult } from "../../../shared/linux/run-process.ts";
import type { StateFolders } from "../../store/paths.ts";
import { diskFullHint, storageError } from "../../store/storage-error.ts";
import { watchBlobs, type BlobProgress } from "./blob-progress.ts";
import { busyboxImageName, ensureBusyboxImage } from "./busybox-image.ts";
import { formatImageName, parseImageName } from "./image-name.ts";
import { ImageStore, type RunnableImage, type StoredImage } from "./image-store.ts";
import { skopeoEnvironment } from "./registry-login.ts";

/** Options of {@link pullImage} and {@link ensureImage}. */
export interface PullOptions extends WaitOptions {
  /** False: also from a registry whose certificate nobody trusts, or by plain HTTP. Default true, but for registries on this machine. */
  readonly tlsVerify?: boolean;
  readonly onProgress?: (what: string) => void;
  /** Called with all blobs of the image that have begun, each time one of them has changed. */
  readonly onBlobs?: (blobs: readonly BlobProgress[]) => void;
}

/** Where skopeo can copy from; what has no transport is a registry's name. */
const transports = ["docker://", "oci:", "oci-archive:", "docker-archive:", "dir:", "containers-storage:", "docker-daemon:"];
/** Longest pull: some gigabytes over a slow line. */
const pullTimeoutMs = 60 * 60_000;

/** When an image is fetched: if it is not here, at any rate, or not at all. */
export type PullPolicy = "missing" | "always" | "never";

/** The image of that name ready to run, fetched if it is not here or as the policy says. `busybox` needs no registry: it is made from Debian's. */
export async function ensureImage(folders: StateFolders, reference: string, options: PullOptions & { readonly pull?: PullPolicy } = {}): Promise<RunnableImage> {
  const store = new ImageStore(folders);
  const { pull = "missing" } = options;
  if (pull === "always" && !isBusybox(reference)) return store.open(await pullImage(folders, reference, options), options.onProgress, options);
  if (pull === "never" && store.find(reference) === undefined && !isBusybox(reference)) {
    throw new RuntimeError("not_found", `no such image: ${reference}`, { reason: "image_not_found", hint: "pull it first, or leave out --pull never" });
  }
  const stored = store.find(reference) ?? (isBusybox(reference) ? await ensureBusyboxImage(store) : await pullImage(folders, reference, options));
  return store.open(stored, options.onProgress, options);
}

/** True when the embedded image answers to that name and docker's is not stored. */
function isBusybox(reference: string): boolean {
  return ["busybox", "busybox:latest", busyboxImageName, "localhost/busybox"].includes(reference);
}

/**
 * Fetches an image with skopeo into the store. Blobs that are here already are not fetched again, an
 * interrupted pull leaves nothing but whole blobs, and a second pull of the same image waits for the first.
 * @throws RuntimeError `not_found` (reason `image_not_found`), `unauthenticated`, `unavailable`.
 */
export async function pullImage(folders: StateFolders, reference: string, options: PullOptions = {}): Promise<StoredImage> {
  const store = new ImageStore(folders);
  const { source, name } = sourceOf(reference);
  return store.withTemporaryFolder(`pull-${createHash("sha256").update(name).digest("hex")}`, options, async (folder) => {
    options.onProgress?.(`pulling ${name}`);
    try {
      store.lendBlobs(join(folder, "blobs/sha256"));
      const healthcheck = await copyAndAsk(reference, source, folder, options);
      return await store.add(name, manifestDigest(folder), join(folder, "blobs"), healthcheck === undefined ? {} : { healthcheck });
    } catch (error) {
      throw isErrnoException(error) ? storageError(error, `pull image "${reference}"`) : error;
    }
  });
}

/** Copies the image and reads its HEALTHCHECK at the same time, which takes a remote registry a second. When this returns nothing runs any more. */
async function copyAndAsk(reference: string, source: string, folder: string, options: PullOptions): Promise<unknown> {
  const copyFailed = new AbortController();
  const signal = AbortSignal.any([copyFailed.signal, ...(options.signal === undefined ? [] : [options.signal])]);
  const asked = readHealthcheck(reference, source, folder, { ...options, signal }).then((value) => ({ value }), () => undefined); // asked again below
  try {
    await copy(reference, source, folder, options);
  } catch (error) {
    copyFailed.abort();
    await asked;
    throw error;
  }
  return (await asked ?? { value: await readHealthcheck(reference, source, folder, options) }).value;
}

/** What skopeo is to copy, and the name the image gets here. */
function sourceOf(reference: string): { readonly source: string; readonly name: string } {
  const transport = transports.find((prefix) => reference.startsWith(prefix));
  if (transport === undefined) {
    const name = formatImageName(parseImageName(reference));
    return { source: `docker://${name}`, name };
  }
  const rest = reference.slice(transport.length).replace(/^\/\//, "");
  if (["docker://", "containers-storage:", "docker-daemon:"].includes(transport)) return { source: reference, name: formatImageName(parseImageName(rest.replace(/^\[[^\]]*\]/, ""))) };
  // A path, with or without a name: `oci:folder:tag`, `docker-archive:file.tar:repo/name:tag`.
  const [path = "", ...tag] = rest.split(":");
  if (!existsSync(path)) throw new RuntimeError("not_found", `image "${reference}": "${path}" does not exist`, { reason: "image_not_found", hint: "check the path" });
  const base = (path.split("/").at(-1) ?? "").replace(/\.(tar|tgz|tar\.gz)$/, "").toLowerCase();
  const label = tag.join(":").replace(/^@/, "image-"); // `@2` is skopeo's third image of an archive
  const name = label.includes("/") || label.includes(":") ? label : `localhost/${base}:${label === "" ? "latest" : label}`;
  return { source: reference, name: formatImageName(parseImageName(name)) };
}

/** Sources whose image skopeo copies as it is. */
const asItIs = ["oci:", "oci-archive:"];

/** docker's HEALTHCHECK, which skopeo leaves out when it copies to the OCI's format. */
async function readHealthcheck(reference: string, source: string, folder: string, options: PullOptions): Promise<unknown> {
  if (asItIs.some((prefix) => source.startsWith(prefix))) return undefined;
  const stdout = await skopeo(reference, source, { folder, command: "inspect", prefix: "", args: ["--config", "--raw", source] }, options);
  return (JSON.parse(stdout.toString()) as { readonly config?: { readonly Healthcheck?: unknown } | null }).config?.Healthcheck ?? undefined; // parseHealthcheck() checks it
}

async function copy(reference: string, source: string, folder: string, options: PullOptions): Promise<void> {
  await skopeo(reference, source, { folder, command: "copy", prefix: "src-", args: [...(options.onBlobs === undefined ? ["--quiet"] : []), "--dest-shared-blob-dir", join(folder, "blobs"), source, `oci:${join(folder, "layout")}:image`] }, options, options.onBlobs);
}

/** Runs skopeo on a source; `prefix`: of the options that are about it. */
async function skopeo(reference: string, source: string, what: { readonly folder: string; readonly command: string; readonly prefix: string; readonly args: readonly string[] }, options: PullOptions, onBlobs?: PullOptions["onBlobs"]): Promise<Buffer> {
  const { folder, command, prefix } = what;
  const insecure = options.tlsVerify === false || /^docker:\/\/(localhost:|127(\.\d+){3}[:/]|\[::1\][:/])/.test(source);
  // As docker's own command does; skopeo does not look at it.
  const dockerHost = process.env["DOCKER_HOST"];
  const temporary = join(folder, `skopeo-${command}`);
  mkdirSync(temporary, { recursive: true });
  const args = [
    // Nobody else would end it, should this process be killed.
    "--pdeathsig", "KILL", "skopeo",
    "--tmpdir", temporary, ...policy(), command, "--retry-times", "2",
    // docker's rule: a registry on this machine need not have a certificate.
    ...(insecure ? [`--${prefix}tls-verify=false`] : []),
    ...(source.startsWith("docker-daemon:") && dockerHost !== undefined ? [`--${prefix}daemon-host`, dockerHost] : []),
    ...what.args,
  ];
  try {
    const run = async (stdout?: number): Promise<RunResult> => runProcess("setpriv", args, { timeoutMs: pullTimeoutMs, ...options, env: pullEnvironment(temporary), ...(stdout !== undefined && { stdout }) });
    return (await (onBlobs === undefined ? run() : watchBlobs(onBlobs, run))).stdout;
  } catch (error) {
    throw classify(reference, [folder, source, source.replace("docker://", "").replace(/[:@][^/]*$/, "")], error);
  }
}

function pullEnvironment(temporary: string): NodeJS.ProcessEnv {
  const environment = skopeoEnvironment();
  // Without a folder of the user's own, skopeo looks into one below this, and gives up when it may not.
  return environment["XDG_RUNTIME_DIR"] !== undefined || mayEnter("/run/containers") ? environment : { ...environment, XDG_RUNTIME_DIR: temporary };
}

/** True also for a folder that is not there. */
function mayEnter(folder: string): boolean {
  try {
    accessSync(folder, constants.X_OK);
    return true;
  } catch (error) {
    return !isErrnoException(error, "EACCES");
  }
}

/** A machine without a policy file would refuse every image; docker asks for no signatures either. */
function policy(): string[] {
  const home = process.env["HOME"] ?? "/root";
  return existsSync("/etc/containers/policy.json") || existsSync(join(home, ".config/containers/policy.json")) ? [] : ["--insecure-policy"];
}

interface Meaning extends Required<Pick<ErrorDetails, "reason" | "hint">> {
  readonly pattern: RegExp;
  readonly code: ErrorCode;
}

/** What skopeo's messages mean; the first that matches. */
const meanings: readonly Meaning[] = [
  { pattern: /failed to execute skopeo/, code: "not_found", reason: "tool_missing", hint: "apt-get install --no-install-recommends skopeo" },
  { pattern: /no space left|disk quota exceeded/i, code: "resource_exhausted", reason: "disk_full", hint: diskFullHint },
  { pattern: /cannot connect to the docker daemon/i, code: "unavailable", reason: "docker_unavailable", hint: "start docker, or say where it listens with DOCKER_HOST" },
  { pattern: /x509:|HTTP response to HTTPS client/, code: "unavailable", reason: "certificate_unknown", hint: "put its CA into /etc/containers/certs.d/REGISTRY/ca.crt, or pull with --tls-verify=false if you trust the way to it" },
  { pattern: /invalid reference format/i, code: "invalid_argument", reason: "bad_image_name", hint: "write [REGISTRY/]NAME[:TAG], for example docker.io/library/alpine:3" },
  { pattern: /permission denied/i, code: "permission_denied", reason: "file_not_permitted", hint: "check who may read and write what the message names" },
  { pattern: /manifest unknown|name unknown|not found|no such file|does not exist|reference .* does not|no such image|no descriptor found/i, code: "not_found", reason: "image_not_found", hint: "check the name; `casemate images` lists what is here, and busybox needs no registry" },
  { pattern: /unauthorized|authentication required|denied/i, code: "unauthenticated", reason: "image_access_denied", hint: "check the name, or log in with `casemate login REGISTRY`" },
  { pattern: /digest|corrupt|checksum|unexpected EOF/i, code: "data_loss", reason: "image_corrupt", hint: "what came is not what was announced; try again, or pull by another tag" },
];
/** From a registry only: an archive that ends too early is damaged. */
const dropped: Meaning = { pattern: /happened during read: unexpected EOF|connection reset/, code: "unavailable", reason: "connection_dropped", hint: "the registry's connection ended in the middle; try again" };
const unreachable: Omit<Meaning, "pattern"> = { code: "unavailable", reason: "registry_unavailable", hint: "check the name and the network; busybox needs no registry" };

/** What skopeo's failure means. The names are taken out of its message first: they may contain the words that are looked for. */
function classify(reference: string, names: readonly string[], error: unknown): RuntimeError {
  const step = `pull image "${reference}"`;
  if (RuntimeError.is(error, "canceled") || RuntimeError.is(error, "deadline_exceeded") || RuntimeError.is(error, "not_found")) return RuntimeError.wrap(error, step);
  const text = error instanceof Error ? error.message : String(error);
  const plain = [reference, ...names].reduce((rest, name) => rest.replaceAll(name, ""), text).replaceAll(/https?:\/\/[^\s"\\]*/g, "");
  const possible = names.some((name) => name.startsWith("docker://")) ? [dropped, ...meanings] : meanings;
  const { code, reason, hint } = possible.find(({ pattern }) => pattern.test(plain)) ?? unreachable;
  return new RuntimeError(code, step, { cause: new RuntimeError("unknown", shorten(text)), reason, hint });
}

/** skopeo logs `time="..." level=fatal msg="..."`: the message alone is for people. */
function shorten(text: string): string {
  return /msg="((?:[^"\\]|\\.)*)"/.exec(text)?.[1]?.replaceAll("\\\"", "\"") ?? text;
}

/** Digest of the manifest skopeo has just written. */
function manifestDigest(folder: string): string {
  const index = JSON.parse(readFileSync(join(folder, "layout/index.json"), "utf8")) as { readonly manifests?: readonly { readonly digest: string }[] }; // skopeo's own
  const digest = index.manifests?.[0]?.digest;
  if (digest === undefined) throw new RuntimeError("internal", "skopeo made an image layout without an image");
  return digest;
}
