import { RuntimeError } from "../../../shared/base/errors.ts";

/** A reference taken apart and completed as docker does. */
export interface ImageName {
  /** Host, with port if any: `docker.io`, `localhost:5000`. */
  readonly registry: string;
  /** `library/busybox`. */
  readonly repository: string;
  /** Empty when there is a digest. */
  readonly tag: string;
  /** `sha256:...`, or empty. */
  readonly digest: string;
}

/** Of registry and repository together (docker's limit); tag and digest have their own. */
const maxNameLength = 255;
const component = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
const repositoryPattern = new RegExp(`^${component}(?:/${component})*$`);
const tagPattern = /^[\w][\w.-]{0,127}$/;
const digestPattern = /^sha256:[0-9a-f]{64}$/;
const hostPart = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?";
const registryPattern = new RegExp(`^(?:${hostPart}(?:\\.${hostPart})*|\\[[0-9a-fA-F:]+\\])(?::\\d{1,5})?$`);
/** docker keeps such names for ids. */
const idPattern = /^[0-9a-f]{64}$/;

/** Parses and completes a name: `busybox` is `docker.io/library/busybox:latest`. @throws RuntimeError `invalid_argument` (reason `bad_image_name`) that says what is wrong. */
export function parseImageName(text: string): ImageName {
  const fail = (why: string): never => {
    throw new RuntimeError("invalid_argument", `image name "${text}": ${why}`, { reason: "bad_image_name", hint: "write [REGISTRY/]NAME[:TAG], for example docker.io/library/alpine:3" });
  };
  if (/^[a-z]+:\/\//i.test(text)) fail("has a scheme, but is no URL");
  const at = text.indexOf("@");
  const digest = at === -1 ? "" : text.slice(at + 1);
  if (at !== -1 && !digestPattern.test(digest)) fail("its digest must be sha256: and 64 hexadecimal digits");
  const rest = at === -1 ? text : text.slice(0, at);
  const slash = rest.indexOf("/");
  const first = slash === -1 ? "" : rest.slice(0, slash);
  // docker's rule: the first part is a registry when it could not be a repository's.
  const hasRegistry = slash !== -1 && (first.includes(".") || first.includes(":") || first === "localhost" || first !== first.toLowerCase());
  const path = hasRegistry ? rest.slice(slash + 1) : rest;
  const colon = path.lastIndexOf(":");
  const repository = colon === -1 ? path : path.slice(0, colon);
  const tag = colon === -1 ? "" : path.slice(colon + 1);
  if (repository === "") fail("has no name");
  if (repository !== repository.toLowerCase()) fail("must be lower case");
  if (!repositoryPattern.test(repository)) fail("only lower case letters and digits, separated by \".\", \"_\", \"-\" or \"/\", are allowed");
  if (colon !== -1 && !tagPattern.test(tag)) fail(`bad tag "${tag}"`);
  if (hasRegistry && !registryPattern.test(first)) fail(`bad registry "${first}"`);
  if (!hasRegistry && idPattern.test(repository)) fail("looks like an image id");
  const registry = hasRegistry && first !== "index.docker.io" ? first : "docker.io";
  const wholeRepository = registry === "docker.io" && !repository.includes("/") ? `library/${repository}` : repository;
  if (registry.length + 1 + wholeRepository.length > maxNameLength) fail(`longer than ${maxNameLength} characters`);
  return { registry, repository: wholeRepository, tag: tag === "" && digest === "" ? "latest" : tag, digest };
}

/** The whole name: `docker.io/library/busybox:latest`. */
export function formatImageName({ registry, repository, tag, digest }: ImageName): string {
  return `${registry}/${repository}${tag === "" ? "" : `:${tag}`}${digest === "" ? "" : `@${digest}`}`;
}

/** Repository as `images` shows it: docker leaves its own registry out. */
export function shortRepository({ registry, repository }: ImageName): string {
  return registry === "docker.io" ? repository.replace(/^library\/(?=[^/]*$)/, "") : `${registry}/${repository}`;
}

/** A whole name as docker shows it: `busybox:latest` for `docker.io/library/busybox:latest`. */
export function shownName(name: string): string {
  const parsed = parseImageName(name);
  return `${shortRepository(parsed)}${parsed.tag === "" ? "" : `:${parsed.tag}`}${parsed.digest === "" ? "" : `@${parsed.digest}`}`;
}

/** Names under which a short name may be stored here, in the order they are tried: docker's own, then images made on this machine. */
export function localCandidates(text: string): string[] {
  const name = parseImageName(text);
  const local = !text.includes("/") ? [formatImageName({ ...name, registry: "localhost", repository: name.repository.replace(/^library\//, "") })] : [];
  return [formatImageName(name), ...local];
}
