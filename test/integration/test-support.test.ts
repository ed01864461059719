// The tools that other tests stand on:
// - a program on a terminal: its size, what is typed, Ctrl-C, resizing, output right before the end
// - a registry that answers, and nothing left of it
import assert from "node:assert/strict";
import { test } from "node:test";
import { Pty } from "../support/pty.ts";
import { Registry } from "../support/registry.ts";
import { requires } from "../support/requires.ts";
import { watchHost } from "../support/host-clean.ts";

const timeoutMs = 10_000;

test("Pty gives a program a controlling terminal of the asked-for size", async () => {
  await using pty = Pty.run(["sh", "-c", "stty size; tty; exit 7"], { rows: 33, columns: 101 });
  assert.equal(await pty.exit({ timeoutMs }), 7);
  assert.equal(pty.output, `33 101\r\n${pty.slavePath}\r\n`);
});

test("Pty types, resizes and interrupts", async () => {
  await using pty = Pty.run(["sh", "-c", "trap 'echo size $(stty size)' WINCH; read line; echo got $line; while :; do sleep 0.1; done"]);
  pty.type("hello\n");
  await pty.waitFor(/got hello/, { timeoutMs });
  pty.resize(50, 60);
  await pty.waitFor(/size 50 60/, { timeoutMs });
  pty.type("\x03");
  assert.notEqual(await pty.exit({ timeoutMs }), 0);
});

test("Pty tells settings apart after a program has changed them", async () => {
  await using pty = Pty.run(["sh", "-c", "read go; stty raw -echo"]);
  const before = pty.settings();
  assert.notEqual(before, "");
  pty.type("go\n");
  await pty.exit({ timeoutMs });
  assert.notEqual(pty.settings(), before);
});

test("Registry answers and leaves nothing behind", { skip: requires("docker-registry") }, async () => {
  const watch = watchHost();
  {
    await using registry = await Registry.start();
    const answer = await fetch(`http://${registry.address}/v2/_catalog`);
    assert.deepEqual(await answer.json(), { repositories: [] });
  }
  await watch.assertHostClean();
});
