// Much data through a process's stdio.
// - out, in, and both at once: every byte arrives, in order
// - nothing on the way grows: not the command, not the owner, not the agent
// - a reader that stops holds the process in the guest back
import assert from "node:assert/strict";
import { createHash, type Hash } from "node:crypto";
import { readFileSync } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { useCasemate } from "../support/cli.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const mebibyte = 1024 ** 2;
/** Under emulation 15 to 35 MiB go through in a second. */
const totalBytes = 1024 * mebibyte;
const growthLimitBytes = 32 * mebibyte;
/** Of the command as a whole; Node itself has 70 MiB. */
const commandLimitBytes = 160 * mebibyte;
const stallMs = 10_000;
const stallLimitBytes = 2 * mebibyte;
const timeoutMs = 5 * 60_000;
/** Until the command has started and connected: what it needs for that is not growth. */
const settle = "sleep 2; ";

describe("much data", { skip }, () => {
  const casemate = useCasemate();
  let ownerPid: number;

  before(async () => {
    await casemate.ok(["run", "-q", "-d", "--name", "x", "busybox", "sh", "-c", "sleep 10000 & wait"]);
    await casemate.ok(["exec", "x", "true"]); // what the first process alone costs
    ownerPid = (JSON.parse(await casemate.ok(["inspect", "x"])) as [{ Sandbox: { ownerPid: number } }])[0].Sandbox.ownerPid;
  });

  test("through stdout", { timeout: timeoutMs }, async (context) => {
    const line = `${"0123456789abcdef".repeat(63)}0123456789abcde`; // 1023 bytes and a newline
    const expected = createHash("sha256");
    for (let sent = 0; sent < totalBytes; sent += 1024) expected.update(`${line}\n`);
    const { seconds, received } = await transfer(["sh", "-c", `${settle}yes ${line} | dd bs=64k count=${totalBytes / 65536} iflag=fullblock 2>/dev/null`], undefined); // head takes longer than we do
    assert.equal(received.digest("hex"), expected.digest("hex"));
    context.diagnostic(`${(totalBytes / mebibyte / seconds).toFixed(0)} MiB/s out`);
  });

  test("through stdin", { timeout: timeoutMs }, async (context) => {
    const sent = createHash("sha256");
    const { seconds, text } = await transfer(["sha256sum"], numbers(totalBytes, sent));
    assert.equal(text, `${sent.digest("hex")}  -\n`);
    context.diagnostic(`${(totalBytes / mebibyte / seconds).toFixed(0)} MiB/s in, with the guest's sha256sum`);
  });

  test("through both at once", { timeout: timeoutMs }, async (context) => {
    const sent = createHash("sha256");
    const { seconds, received } = await transfer(["cat"], numbers(totalBytes, sent));
    assert.equal(received.digest("hex"), sent.digest("hex"));
    context.diagnostic(`${(totalBytes / mebibyte / seconds).toFixed(0)} MiB/s in and out`);
  });

  test("a reader that stops holds the process back", { timeout: timeoutMs }, async (context) => {
    const child = casemate.start(["exec", "x", "sh", "-c", `${settle}exec dd if=/dev/zero bs=64k count=100000`]);
    try {
      const growth = await watchGrowth(child.pid);
      let received = 0;
      child.stdout.on("data", (chunk: Buffer) => {
        received += chunk.length;
        if (received > 8 * mebibyte) child.stdout.pause();
      });
      while (received <= 8 * mebibyte) await delay(100);
      await delay(stallMs);
      const written = Number(/wchar: (\d+)/.exec(await casemate.ok(["exec", "x", "sh", "-c", "cat /proc/$(pidof dd)/io"]))?.[1]);
      assert.ok(written >= received, `${written} bytes written, ${received} received`);
      assert.ok(written - received <= stallLimitBytes, `${written - received} bytes more than were read`);
      context.diagnostic(`${written - received} bytes ahead of a reader that has stopped`);
      await growth.assertBounded();
    } finally {
      child.kill("SIGKILL");
      child.stdout.destroy();
    }
    await casemate.ok(["exec", "x", "sh", "-c", "pkill dd; true"]);
  });

  /** Runs a command in the container with that input, and watches everybody's memory meanwhile. */
  async function transfer(command: readonly string[], input: Readable | undefined): Promise<{ readonly seconds: number; readonly received: Hash; readonly text: string }> {
    const child = casemate.start(["exec", ...(input === undefined ? [] : ["-i"]), "x", ...command]);
    const growth = await watchGrowth(child.pid);
    const began = performance.now();
    const received = createHash("sha256");
    let text = "", errors = "";
    child.stdout.on("data", (chunk: Buffer) => {
      received.update(chunk);
      if (text.length < 1024) text += String(chunk.subarray(0, 1024));
    });
    child.stderr.on("data", (chunk: Buffer) => { errors += String(chunk); });
    const closed = new Promise((resolve) => { child.once("close", resolve); });
    if (input === undefined) child.stdin.end();
    else await pipeline(input, child.stdin);
    assert.equal(await closed, 0, errors);
    const seconds = (performance.now() - began) / 1000 - (input === undefined ? 2 : 0);
    await growth.assertBounded();
    return { seconds, received, text };
  }

  /** Peak memory of owner, agent and one command from now on. */
  async function watchGrowth(commandPid = -1): Promise<{ assertBounded(): Promise<void> }> {
    const agentPeak = async (): Promise<number> => peakBytes(await casemate.ok(["exec", "--vm", "x", "cat", "/proc/1/status"]));
    const agentBefore = await agentPeak();
    const ownerBefore = hostPeak(ownerPid) ?? assert.fail("no owner");
    let command = 0;
    const timer = setInterval(() => { command = Math.max(command, hostPeak(commandPid) ?? 0); }, 50);
    return {
      assertBounded: async () => {
        clearInterval(timer);
        const growth = { owner: (hostPeak(ownerPid) ?? 0) - ownerBefore, agent: await agentPeak() - agentBefore };
        for (const [who, bytes] of Object.entries(growth)) assert.ok(bytes <= growthLimitBytes, `the ${who} grew by ${(bytes / mebibyte).toFixed(1)} MiB`);
        assert.ok(command > 0 && command <= commandLimitBytes, `the command had ${(command / mebibyte).toFixed(1)} MiB`);
        console.log(`growth in MiB: ${Object.entries(growth).map(([who, bytes]) => `${who} ${(bytes / mebibyte).toFixed(1)}`).join(", ")}; the command had ${(command / mebibyte).toFixed(1)}`);
      },
    };
  }
});

/** Bytes that differ from place to place, so that nothing can be lost, doubled or swapped unnoticed. */
function numbers(totalBytes: number, hash: Hash): Readable {
  const block = Buffer.alloc(256 * 1024);
  let next = 0;
  return Readable.from((function* () {
    for (let sent = 0; sent < totalBytes; sent += block.length) {
      for (let at = 0; at < block.length; at += 8) block.writeDoubleLE(next++, at);
      hash.update(block);
      yield Buffer.from(block);
    }
  })(), { objectMode: false });
}

function hostPeak(pid: number): number | undefined {
  try {
    return peakBytes(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return undefined; // it has ended
  }
}

function peakBytes(status: string): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
}
