import { createSocket } from "node:dgram";
import { once } from "node:events";
import { readFileSync, readdirSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { parseSlotRange } from "../../src/host/network/address-slot.ts";
import { startUserNetwork } from "../../src/host/network/passt.ts";
import { parsePublish } from "../../src/host/network/publish.ts";
import { Ledger } from "../../src/host/store/ledger.ts";
import { findTaggedProcesses } from "../../src/host/store/tagged-process.ts";
import { describeError, RuntimeError } from "../../src/shared/base/errors.ts";
import { Steps, type StepHook } from "../../src/shared/base/steps.ts";
import { UndoStack } from "../../src/shared/base/undo.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { PasstGuest } from "./passt-guest.ts";

/** What the probe found; printed as JSON. */
export interface ProbeReport {
  readonly failure?: { readonly code: string; readonly reason: string | undefined; readonly hint: string | undefined; readonly message: string };
  readonly warnings?: readonly string[];
  readonly nameservers?: readonly string[];
  readonly addresses?: readonly string[];
  readonly gatewayMac?: string | undefined;
  /** What came back through each published port. */
  readonly published?: Readonly<Record<string, string>>;
  /** The resolver's answer to a question sent to the forwarded address. */
  readonly dnsAnswer?: string | undefined;
  /** What came of connections a hostile guest tries, by address. */
  readonly attacks?: Readonly<Record<string, string>>;
  /** Connections and datagrams that reached a service on the host's loopback. */
  readonly loopbackHits?: number;
  readonly passtUser?: number;
  readonly endedInMs?: number;
  readonly left: { readonly processes: number; readonly slots: readonly string[]; readonly files: readonly string[]; readonly rules: string; readonly records: number; readonly failures: readonly string[] };
}

/** What the probe is to do. */
export interface ProbeRequest {
  readonly folder: string;
  readonly publish: readonly string[];
  /** Ports taken by somebody else before the start. */
  readonly taken?: readonly number[];
  /** Answer as a resolver on 127.0.0.53. */
  readonly resolver?: boolean;
  /** Kill passt and see that it is noticed. */
  readonly killPasst?: boolean;
  /** A step of the set-up that fails. */
  readonly failAt?: { readonly step: string; readonly phase: "before" | "after" };
}

const uid = 231_072;

// Runs as a program of its own in a network namespace of the test: see network.test.ts.
if (process.argv[2] !== undefined) {
  const report = await probe(JSON.parse(process.argv[2]) as ProbeRequest); // written by network.test.ts
  process.stdout.write(JSON.stringify(report), () => process.exit(0));
}

async function probe(request: ProbeRequest): Promise<ProbeReport> {
  const ledger = Ledger.open(join(request.folder, "ledger.json"));
  const undo = new UndoStack();
  const slotFolder = join(request.folder, "slots");
  const found = await use(request, slotFolder, ledger, undo).catch((error: unknown) => ({
    failure: { code: RuntimeError.is(error) ? error.code : "none", reason: RuntimeError.is(error) ? error.reason : undefined, hint: RuntimeError.is(error) ? error.hint : undefined, message: describeError(error) },
  }));
  const failures = (await undo.run()).map(describeError);
  const rules = (await Promise.all(["iptables", "ip6tables"].map((tool) => runProcess(tool, ["-S"])))).map(({ stdout }) => stdout.toString()).join("");
  return { ...found, left: { processes: findTaggedProcesses("probe/passt").length, slots: listed(slotFolder), files: listed(request.folder).filter((name) => name !== "slots" && name !== "ledger.json"), rules, records: ledger.records.length, failures } };
}

async function use(request: ProbeRequest, slotFolder: string, ledger: Ledger, undo: UndoStack): Promise<Omit<ProbeReport, "left">> {
  for (const port of request.taken ?? []) await once(createServer().listen(port, "0.0.0.0"), "listening");
  if (request.resolver) await answerOn("127.0.0.53", 53, (question) => `answer to ${question}`);
  const network = await startUserNetwork({ sandboxId: "probe", sandboxFolder: request.folder, slotFolder, range: parseSlotRange("10.87.0.0/16"), user: { uid, gid: uid }, ports: request.publish.flatMap((text) => parsePublish(text)) }, ledger, undo, new Steps("set up network", { hook: failingHook(request) }));
  const { guest: settings, ports, warnings, nic } = network;
  const passtUser = uidOf("probe/passt");
  const guest = new PasstGuest(nic.fd, nic.macAddress, settings.addresses[0] ?? "");
  // Before the undo below it closes the descriptor under the socket's feet.
  undo.add("guest", () => guest.close());
  const gateway = settings.routes[0]?.gateway ?? "";
  const gatewayMac = await guest.arp(gateway);
  for (const { protocol, containerPort } of ports) {
    if (protocol === "tcp") guest.serveTcp(containerPort, `tcp ${containerPort}`);
    else guest.serveUdp(containerPort, `udp ${containerPort}`);
  }
  const published: Record<string, string> = {};
  for (const { protocol, hostAddress, hostPort, containerPort } of ports) {
    published[`${protocol} ${containerPort}`] = await (protocol === "tcp" ? readLine : ask)(hostAddress === "" ? "127.0.0.1" : hostAddress, hostPort);
  }
  const dnsAnswer = settings.nameservers[0] === undefined ? undefined : (await guest.udp(settings.nameservers[0], 53, Buffer.from("example")))?.toString();
  const { attacks, loopbackHits } = await attack(guest, gateway);
  const report = { warnings, nameservers: settings.nameservers, addresses: settings.addresses, gatewayMac, published, dnsAnswer, attacks, loopbackHits, passtUser };
  if (!request.killPasst) return report;
  const since = performance.now();
  for (const { pid } of findTaggedProcesses("probe/passt")) process.kill(pid, "SIGKILL");
  await network.exited;
  return { ...report, endedInMs: performance.now() - since };
}

function failingHook({ failAt }: ProbeRequest): StepHook {
  return (_operation, step, phase) => {
    if (step === failAt?.step && phase === failAt.phase) throw new RuntimeError("resource_exhausted", "injected");
  };
}

/** Tries to reach services that listen on the host's loopback only. */
async function attack(guest: PasstGuest, gateway: string): Promise<{ attacks: Record<string, string>; loopbackHits: number }> {
  let loopbackHits = 0;
  const server = createServer((socket) => { loopbackHits++; socket.on("error", () => undefined).destroy(); }).listen(4001, "127.0.0.1");
  await once(server, "listening");
  await answerOn("127.0.0.1", 4002, () => { loopbackHits++; return "reached"; });
  const attacks: Record<string, string> = {};
  for (const [address, from] of [[gateway, undefined], ["127.0.0.1", undefined], ["127.0.0.1", "127.0.0.1"], ["0.0.0.0", undefined]] as const) attacks[`tcp ${address}${from === undefined ? "" : ` from ${from}`}`] = await guest.connect(address, 4001, from);
  for (const address of [gateway, "127.0.0.1"]) attacks[`udp ${address}`] = (await guest.udp(address, 4002, Buffer.from("x")))?.toString() ?? "nothing";
  return { attacks, loopbackHits };
}

async function answerOn(address: string, port: number, answer: (question: string) => string): Promise<void> {
  const socket = createSocket("udp4");
  socket.on("message", (question, from) => socket.send(answer(question.toString()), from.port, from.address));
  socket.bind(port, address);
  await once(socket, "listening");
}

async function readLine(address: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(port, address);
    const end = (text: string): void => { socket.destroy(); resolve(text); };
    socket.setTimeout(3_000, () => end("timeout"));
    socket.on("data", (chunk: Buffer) => end(chunk.toString().trim()));
    socket.on("error", (error) => end(error.message));
  });
}

async function ask(address: string, port: number): Promise<string> {
  const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
  return new Promise((resolve) => {
    const end = (text: string): void => { clearTimeout(timer); socket.close(); resolve(text); };
    const timer = setTimeout(() => end("timeout"), 3_000);
    socket.on("message", (message) => end(message.toString()));
    socket.on("error", (error) => end(error.message));
    socket.send("question", port, address);
  });
}

function uidOf(token: string): number {
  const [found] = findTaggedProcesses(token);
  return Number(/^Uid:\s+\d+\s+(\d+)/m.exec(readFileSync(`/proc/${found?.pid ?? 0}/status`, "utf8"))?.[1]);
}

function listed(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // never made
  }
}
