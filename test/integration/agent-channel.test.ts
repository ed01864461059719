// The channel to the agent in a real guest, and all that can go wrong on it (docs/wire-channel.md).
// - bytes of somebody who was there before, and garbage, harm neither the agent nor the next session
// - a connection lost in the middle of calls is followed by one that sees nothing of the old one's bytes
// - exits and output that nobody took wait for the next connection
// - many calls at once get their own answers; a flood on the console holds nobody up
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { after, afterEach, before, test } from "node:test";
import { openPort } from "../../src/host/agent-client/transport.ts";
import { ensureGuestImage } from "../../src/host/guest-image/guest-image.ts";
import { stateFolders } from "../../src/host/store/paths.ts";
import { encodeHello, encodePacket, maxPacketBytes } from "../../src/shared/channel/packet.ts";
import { eventually, orAbandon } from "../../src/shared/base/deadline.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { connectUnix } from "../../src/shared/linux/unix-socket.ts";
import { keepEvidence } from "../support/evidence.ts";
import { watchHost, type HostWatch } from "../support/host-clean.ts";
import { requires } from "../support/requires.ts";
import { TestVm, type TestAgent } from "../support/test-vm.ts";

const skip = requires("root");
let watch: HostWatch;
let machine: TestVm;
let bootId: string;

before(async () => {
  if (skip !== false) return;
  await ensureGuestImage(stateFolders(undefined));
  watch = watchHost();
  machine = await TestVm.boot("channel");
  // While the guest is still booting: what is sent now is what a dead owner left.
  for (const socket of ports()) await sendAndLeave(socket, Buffer.concat([randomBytes(1000), Buffer.alloc(2), Buffer.from("casemate\0hello")]));
  bootId = await withAgent((agent) => agent.sh("cat /proc/sys/kernel/random/boot_id"));
});

afterEach((context) => {
  if ("passed" in context && context.passed === false) keepEvidence(machine.config.folders, context.name);
});

after(async () => {
  if (skip !== false) return;
  await machine.end();
  await watch.assertHostClean();
});

const ports = (): string[] => [machine.paths.controlSocket, machine.paths.dataSocket];

/** Connects as a new owner, uses the agent, and leaves. */
async function withAgent<T>(use: (agent: TestAgent) => Promise<T>): Promise<T> {
  const agent = await machine.connect();
  try {
    return await use(agent);
  } finally {
    agent.close();
  }
}

/** Writes bytes to a port as nobody should, and goes as soon as they have left. */
async function sendAndLeave(socketPath: string, bytes: Uint8Array): Promise<void> {
  const socket = await connectUnix(socketPath);
  socket.on("error", () => { /* the guest may hang up on us */ });
  socket.resume();
  await orAbandon(new Promise<void>((sent) => { socket.write(bytes, () => sent()); }), "send bytes", { timeoutMs: 10_000 });
  socket.destroy();
}

/** The agent is the one that booted, and works. */
async function assertAgentLives(): Promise<void> {
  assert.equal(await withAgent((agent) => agent.sh("cat /proc/sys/kernel/random/boot_id")), bootId);
}

const session = Buffer.from("0123456789abcdef");
const garbage: readonly [what: string, bytes: () => Uint8Array][] = [
  ["nothing", () => new Uint8Array()],
  ["one byte", () => Buffer.from([1])],
  ["random bytes", () => randomBytes(256 * 1024)],
  ["half a greeting", () => encodeHello(session).subarray(0, maxPacketBytes + 10)],
  ["a greeting and nothing more", () => encodeHello(session)],
  ["a greeting and half a packet", () => Buffer.concat([encodeHello(session), encodePacket(session, [randomBytes(1000)]).subarray(0, 500)])],
  ["a greeting and a packet that is too long", () => Buffer.concat([encodeHello(session), Buffer.from([0xff, 0xff, 0xff, 0xff]), randomBytes(100)])],
  ["a greeting and a packet of another session", () => Buffer.concat([encodeHello(session), encodePacket(Buffer.from("fedcba9876543210"), [Buffer.from("x")])])],
  ["a greeting and random bytes", () => Buffer.concat([encodeHello(session), randomBytes(100_000)])],
  ["a hundred greetings", () => Buffer.concat(Array.from({ length: 100 }, () => encodeHello(randomBytes(16))))],
  ["packets of random bytes", () => Buffer.concat([encodeHello(session), ...Array.from({ length: 50 }, (_, index) => encodePacket(session, [randomBytes(1 + index * 100)]))])],
];

test("whatever was sent before, the next session begins clean", { skip }, async () => {
  for (const [what, bytes] of garbage) {
    for (const socket of ports()) await sendAndLeave(socket, bytes());
    await assertAgentLives().catch((error: unknown) => { throw new Error(`after ${what}`, { cause: error }); });
  }
});

test("garbage inside a session ends at most that session", { skip }, async () => {
  for (const path of ports()) {
    const port = await openPort(path, { timeoutMs: 10_000 });
    for (let sent = 0; sent < 20; sent++) port.link.send([randomBytes(1 + sent * 500)]);
    // A frame header of ttRPC that announces more than it may (4 MiB), and stdio for a stream that is not there.
    port.link.send([Buffer.from([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0])]);
    port.link.send([Buffer.from([1, 9, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 7])]);
    port.close();
  }
  await assertAgentLives();
});

test("a connection lost in the middle of calls: the next one gets its own answers only", { skip }, async () => {
  for (let round = 0; round < 10; round++) {
    const agent = await machine.connect();
    const lost = Array.from({ length: 20 }, () => agent.client.guest.listProcesses({ containerId: "" }, { timeoutMs: 10_000 }));
    const running = agent.run(`echo old ${round}; sleep 0.1; cat /proc/kallsyms`);
    const outcomes = Promise.allSettled([...lost, running]);
    // Some calls are on their way, some in the guest, some answers on the way back.
    if (round % 2 === 1) await lost[0];
    agent.close();
    assert.equal((await orAbandon(outcomes, "the callers", { timeoutMs: 5_000 })).at(-1)?.status, "rejected");
    assert.equal(await withAgent((next) => next.sh(`echo new ${round}`)), `new ${round}`);
  }
});

test("exits and output that nobody took wait for the next connection", { skip }, async () => {
  const streamId = 900_001;
  const process = { args: ["/bin/busybox", "sh", "-c", "seq 1 20000; exit 7"], cwd: "/", user: { uid: 0, gid: 0 }, env: [] };
  await withAgent((agent) => agent.client.guest.exec({ execId: "left", processJson: Buffer.from(JSON.stringify(process)), stdio: { streamId, terminal: false, stdin: false } }, { timeoutMs: 10_000 }));
  await withAgent(async ({ client }) => {
    const exit = (async () => {
      for await (const { kind } of client.guest.events({ afterSequence: 0n })) if (kind.case === "exit" && kind.value.execId === "left") return kind.value;
      throw new RuntimeError("unavailable", "the events ended");
    })();
    const hash = createHash("sha256");
    let received = 0;
    const total = await orAbandon(new Promise<number>((resolve) => {
      const receiver = client.streams(streamId).openOutput(1, {
        onBytes: (offset, bytes) => {
          assert.equal(offset, received);
          received += bytes.length;
          hash.update(bytes);
          receiver.acknowledge(received);
        },
        onEnd: resolve,
      });
    }), "the output", { timeoutMs: 20_000 });
    const expected = Array.from({ length: 20_000 }, (_, index) => `${index + 1}\n`).join("");
    assert.deepEqual([received, total, hash.digest("hex")], [expected.length, expected.length, createHash("sha256").update(expected).digest("hex")]);
    const { exitStatus, stdoutBytes } = await orAbandon(exit, "the exit", { timeoutMs: 20_000 });
    assert.deepEqual([exitStatus, Number(stdoutBytes)], [7, expected.length]);
  });
});

test("many calls at once get their own answers", { skip }, async () => {
  await withAgent(async (agent) => {
    const numbers = Array.from({ length: 25 }, (_, index) => index);
    const calls = Array.from({ length: 300 }, () => agent.client.guest.hello({ protocolVersion: 1 }, { timeoutMs: 30_000 }));
    const printed = await Promise.all(numbers.map((number) => agent.run(`echo out ${number}; echo err ${number} >&2; exit ${number}`)));
    assert.deepEqual(printed, numbers.map((number) => ({ exitStatus: number, stdout: `out ${number}\n`, stderr: `err ${number}\n` })));
    assert.deepEqual(new Set((await Promise.all(calls)).map(({ kernelRelease }) => kernelRelease)).size, 1);
  });
});

test("a flood on the console holds nobody up, and its file is bounded", { skip }, async () => {
  await withAgent(async (agent) => {
    const before = statSync(machine.paths.console).size;
    const flood = agent.run("timeout 4 yes 'the console is flooded with lines that nobody reads' > /dev/console");
    await eventually("the flood", () => (statSync(machine.paths.console).size > before + 10_000 ? true : undefined), { timeoutMs: 10_000 });
    for (let round = 0; round < 5; round++) {
      const began = performance.now();
      assert.equal(await agent.sh(`echo ${round}`), String(round));
      assert.ok(performance.now() - began < 3_000, `an answer took ${performance.now() - began} ms`);
    }
    await flood;
  });
  for (const file of [machine.paths.console, `${machine.paths.console}.1`]) assert.ok(!existsSync(file) || statSync(file).size <= 512 * 1024, file);
  assert.match(readFileSync(machine.paths.console, "latin1"), /flooded/);
});

test("the end of the VM ends the connection and every call on it at once", { skip }, async () => {
  const agent = await machine.connect();
  const running = agent.run("sleep 600");
  const failed = assert.rejects(running, (error) => RuntimeError.is(error, "unavailable"));
  await eventually("the process", async () => ((await agent.client.guest.listProcesses({ containerId: "" })).processes.some(({ status }) => status === "running") ? true : undefined), { timeoutMs: 10_000 });
  const killedAt = performance.now();
  process.kill(machine.vm.identity.pid, "SIGKILL");
  assert.ok(RuntimeError.is(await agent.client.closed, "unavailable"));
  await failed;
  assert.ok(performance.now() - killedAt < 1_000);
  await assert.rejects(machine.connect(), (error) => RuntimeError.is(error, "unavailable"));
});
