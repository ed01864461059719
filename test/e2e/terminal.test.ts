// The command on a terminal of its own.
// - the size is right before the first prompt and follows the window; TERM is set; Ctrl-C reaches the program
// - the detach keys leave it running, and attach comes back
// - without -t Ctrl-C is passed on as a signal
// - the terminal is as it was after the end, and after any crash: of the command, its parent, the owner, the VM
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { before, describe, test } from "node:test";
import { eventually } from "../../src/shared/base/deadline.ts";
import { readProcStat } from "../../src/shared/linux/proc.ts";
import { useCasemate } from "../support/cli.ts";
import { Pty } from "../support/pty.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
/** Starts included, on a machine with too much to do. */
const timeoutMs = 120_000;
/** busybox asks the terminal for the cursor after its prompt, and clears the rest of the line. */
const prompt = /\/ # (?:\x1b\[(?:6n|J))*$/;

describe("on a terminal", { skip }, () => {
  const casemate = useCasemate();
  const running = async (name: string): Promise<boolean> => (await casemate.ok(["ps", "-q", "--filter", `name=${name}`])) !== "";
  const sandboxOf = async (name: string): Promise<{ readonly ownerPid: number; readonly vmmPid: number }> => {
    const [{ Sandbox: sandbox }] = JSON.parse(await casemate.ok(["inspect", name])) as [{ Sandbox: { ownerPid: number; vmmPid: number } }];
    return sandbox;
  };

  before(() => casemate.ok(["run", "-q", "-d", "--name", "background", "busybox", "sh", "-c", "sleep 1000 & wait"]));

  test("run -it: a shell as on the spot, left with the detach keys and taken up again", async () => {
    await using pty = Pty.run(casemate.commandLine(["run", "-it", "--name", "shell", "--rm", "busybox", "sh", "-c", "stty size; echo TERM=$TERM; exec sh"]), { rows: 33, columns: 111 });
    const before = pty.settings();
    await pty.waitFor(prompt, { timeoutMs });
    assert.match(pty.output, /33 111\r\nTERM=xterm\r\n/);
    assert.notEqual(pty.settings(), before, "raw while it runs");
    pty.resize(20, 60);
    const resized = pty.output.length;
    await eventually("the new size in the container", async () => {
      pty.type("stty size\r");
      return /20 60/.test(pty.output.slice(resized)) || undefined;
    }, { timeoutMs, intervalMs: 300 });
    const interrupted = pty.output.length;
    pty.type("sleep 100; echo status $?\r");
    await pty.waitFor(/sleep 100; echo status \$\?\r\n/, { timeoutMs, from: interrupted });
    await new Promise((resolve) => { setTimeout(resolve, 300); }); // let the shell start it; Ctrl-C before that is lost on any terminal
    pty.type("\x03");
    await pty.waitFor(/\^C[^]*\/ # (?:\x1b\[(?:6n|J))*$/, { timeoutMs, from: interrupted });
    pty.type("\x10\x11");
    assert.equal(await pty.exit({ timeoutMs }), 0);
    assert.equal(pty.settings(), before);
    assert.ok(await running("shell"));

    await using again = Pty.run(casemate.commandLine(["attach", "shell"]), { rows: 40, columns: 100 });
    const beforeAgain = again.settings();
    again.type("\r");
    await again.waitFor(prompt, { timeoutMs });
    again.type("stty size; exit 3\r");
    assert.equal(await again.exit({ timeoutMs }), 3);
    assert.match(again.output, /40 100/);
    assert.equal(again.settings(), beforeAgain);
    assert.equal(await running("shell"), false);
  });

  test("exec -it: sized, raw, with detach keys of one's own", async () => {
    await using pty = Pty.run(casemate.commandLine(["exec", "-it", "--detach-keys", "ctrl-x,d", "background", "sh", "-c", "stty size; tty; exec sh"]), { rows: 25, columns: 70 });
    const before = pty.settings();
    await pty.waitFor(prompt, { timeoutMs });
    assert.match(pty.output, /^25 70\r+\n\/dev\/pts\/\d+\r+\n/, "what comes before raw mode may have one more carriage return");
    pty.type("echo $((6*7))\r");
    await pty.waitFor(/\r\n42\r\n/, { timeoutMs });
    pty.type("\x18d");
    assert.equal(await pty.exit({ timeoutMs }), 0);
    assert.equal(pty.settings(), before);
  });

  test("exec -t without -i has a terminal too, and leaves the caller's as it is", async () => {
    await using pty = Pty.run(casemate.commandLine(["exec", "-t", "background", "stty", "size"]), { rows: 12, columns: 34 });
    assert.equal(await pty.exit({ timeoutMs }), 0);
    assert.match(pty.output, /^12 34\r+\n$/);
  });

  test("Ctrl-C without -t reaches the command as SIGINT", async () => {
    await using pty = Pty.run(casemate.commandLine(["exec", "-i", "background", "sh", "-c", "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.1; done"]));
    await pty.waitFor(/ready/, { timeoutMs });
    pty.type("\x03");
    assert.equal(await pty.exit({ timeoutMs }), 4);
    assert.match(pty.output, /caught/);
  });

  test("restores the terminal when the command is killed", async () => {
    await using pty = Pty.run(casemate.commandLine(["exec", "-it", "background", "sh"]));
    const before = pty.settings();
    await pty.waitFor(prompt, { timeoutMs });
    assert.notEqual(pty.settings(), before);
    process.kill(processWith(pty.pid, /cli\.cjs/) ?? assert.fail("no command"), "SIGKILL");
    await eventually("the terminal's old settings", () => (pty.settings() === before ? true : undefined), { timeoutMs });
  });

  test("leaves the terminal when its parent is killed", async () => {
    // The outer shell has the terminal, as a user's would; the inner one is the script that gets killed.
    const script = `sh -c '"$@"; :' script "$@"; echo parent ended; exec sleep 100`;
    await using pty = Pty.run(["sh", "-c", script, "outer", ...casemate.commandLine(["exec", "-it", "background", "sh"])]);
    const before = pty.settings();
    await pty.waitFor(prompt, { timeoutMs });
    const inner = await eventually("the script", () => processWith(pty.pid, /^sh -c "\$@"; : script /), { timeoutMs });
    process.kill(inner, "SIGKILL");
    await pty.waitFor(/parent ended/, { timeoutMs });
    await eventually("the terminal's old settings", () => (pty.settings() === before ? true : undefined), { timeoutMs });
  });

  test("restores the terminal when the VM dies, and says so", async () => {
    await using pty = Pty.run(casemate.commandLine(["exec", "-it", "background", "sh"]));
    const before = pty.settings();
    await pty.waitFor(prompt, { timeoutMs });
    process.kill((await sandboxOf("background")).vmmPid, "SIGKILL");
    assert.equal(await pty.exit({ timeoutMs }), 137);
    assert.match(pty.output, /its VM has ended/);
    assert.equal(pty.settings(), before);
    assert.equal(await running("background"), false);
  });

  test("restores the terminal when everything of the sandbox dies at once", async () => {
    await using pty = Pty.run(casemate.commandLine(["run", "-it", "--name", "orphan", "busybox"]));
    const before = pty.settings();
    await pty.waitFor(prompt, { timeoutMs });
    const { ownerPid, vmmPid } = await sandboxOf("orphan");
    const supervisor = readProcStat(ownerPid)?.parentPid ?? assert.fail("no owner");
    for (const pid of [supervisor, ownerPid, vmmPid]) process.kill(pid, "SIGKILL");
    assert.notEqual(await pty.exit({ timeoutMs }), 0);
    assert.match(pty.output, /\r\n?casemate: .+\r\n$|6ncasemate: .+\r\n$/, "it says so");
    assert.equal(pty.settings(), before);
    assert.equal(await running("orphan"), false);
    assert.equal(await casemate.ok(["rm", "-f", "orphan"]), "orphan");
  });
});

/** The first process with that command line among `pid`, its first child, and so on. */
function processWith(pid: number, commandLine: RegExp): number | undefined {
  const ps = (...args: string[]): string => spawnSync("ps", args, { encoding: "utf8" }).stdout.trim();
  if (commandLine.test(ps("-o", "args=", "-p", String(pid)))) return pid;
  const [child = ""] = ps("-o", "pid=", "--ppid", String(pid)).split("\n");
  return child === "" ? undefined : processWith(Number(child), commandLine);
}
