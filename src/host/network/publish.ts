import { isIP } from "node:net";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { PublishRequest, PublishedPort } from "../store/container-store.ts";

/** First and last port, both included. */
interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** Most ports one option may publish; each is a socket and an argument of passt, whose command line ends at some thousands. */
const maxPortsPerOption = 1_000;

/**
 * Parses docker's `-p`: `[[address:][host[-host]]:]guest[-guest][/tcp|/udp]`; an IPv6 address stands in brackets.
 * A range of container ports becomes one entry for each.
 * @throws RuntimeError `invalid_argument` that names the bad part; `unimplemented` for sctp.
 */
export function parsePublish(text: string): PublishRequest[] {
  const fail = (why: string): never => {
    throw new RuntimeError("invalid_argument", `publish "${text}": ${why}`, { reason: "bad_port", hint: "write -p [ADDRESS:][HOST_PORT:]CONTAINER_PORT[/tcp|/udp], for example -p 127.0.0.1:8080:80" });
  };
  const slash = text.indexOf("/");
  const protocol = parseProtocol(slash === -1 ? "tcp" : text.slice(slash + 1), text, fail);
  const { address, host, guest } = splitPublish(slash === -1 ? text : text.slice(0, slash), fail);
  const guestPorts = parsePorts(guest, "container port", fail);
  const hostPorts = host === undefined || host === "" ? undefined : parsePorts(host, "host port", fail);
  const hostAddress = address === undefined || address === "" ? "" : parseAddress(address, fail);
  const count = guestPorts.last - guestPorts.first + 1;
  if (count > maxPortsPerOption) fail(`publishes ${count} ports, at most ${maxPortsPerOption} in one option`);
  if (hostPorts !== undefined && count > 1 && hostPorts.last - hostPorts.first + 1 !== count) fail(`the ranges have ${hostPorts.last - hostPorts.first + 1} host ports and ${count} container ports, they must be equal in number`);
  return Array.from({ length: count }, (_, index) => ({
    protocol,
    hostAddress,
    hostPorts: hostPorts === undefined || count === 1 ? hostPorts : { first: hostPorts.first + index, last: hostPorts.first + index },
    containerPort: guestPorts.first + index,
  }));
}

/** What `-P` publishes: every port the image exposes (`80`, `53/udp`, `8000-8002/tcp`), each on a free host port. */
export function publishExposed(exposedPorts: readonly string[]): PublishRequest[] {
  return exposedPorts.flatMap((exposed) => {
    if (exposed.includes(":")) throw new RuntimeError("invalid_argument", `publish exposed port "${exposed}": not a port with an optional protocol`, { reason: "bad_port" });
    return parsePublish(exposed);
  });
}

/** `0.0.0.0:8080->80/tcp`, as `ps` shows it. */
export function formatPublished(port: PublishedPort): string {
  const address = port.hostAddress === "" ? "0.0.0.0" : port.hostAddress;
  return `${isIP(address) === 6 ? `[${address}]` : address}:${port.hostPort}->${port.containerPort}/${port.protocol}`;
}

type Fail = (why: string) => never;

function parseProtocol(name: string, text: string, fail: Fail): PublishedPort["protocol"] {
  const lower = name.toLowerCase();
  if (lower === "tcp" || lower === "udp") return lower;
  if (lower === "sctp") throw new RuntimeError("unimplemented", `publish "${text}": sctp cannot be forwarded, only tcp and udp`, { reason: "bad_port" });
  return fail(`the protocol is "${name}", it must be tcp or udp`);
}

function splitPublish(text: string, fail: Fail): { address: string | undefined; host: string | undefined; guest: string } {
  const bracketed = /^\[([^\]]*)\]:(.*)$/.exec(text);
  const rest = (bracketed?.[2] ?? text).split(":");
  const guest = rest.at(-1) ?? "";
  if (bracketed !== null) {
    if (rest.length > 2) fail("too many colons after the address");
    return { address: bracketed[1], host: rest.length === 2 ? rest[0] : undefined, guest };
  }
  if (rest.length > 3) fail("too many colons; an IPv6 address stands in brackets");
  return { address: rest.length === 3 ? rest[0] : undefined, host: rest.at(-2), guest };
}

function parseAddress(address: string, fail: Fail): string {
  if (isIP(address) === 0 || address.includes("%")) fail(`"${address}" is not an IP address`);
  return address === "0.0.0.0" || address === "::" ? "" : address;
}

function parsePorts(text: string, what: string, fail: Fail): PortRange {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text);
  if (match === null) return fail(text === "" ? `the ${what} is missing` : `the ${what} "${text}" is not a number or a range of numbers`);
  const first = Number(match[1]);
  const last = match[2] === undefined ? first : Number(match[2]);
  if (first < 1 || last > 65_535) fail(`the ${what} "${text}" is outside 1 to 65535`);
  if (last < first) fail(`the ${what} range "${text}" runs backwards`);
  return { first, last };
}
