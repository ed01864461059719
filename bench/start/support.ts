import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { bootMemoryBytes } from "../../src/host/sandbox/sandbox-config.ts";
import { releaseTemplateMemory, holdTemplateMemory } from "../../src/host/template/template-memory.ts";
import { publishTemplate } from "../../src/host/template/template-store.ts";
import { savedMemoryName } from "../../src/host/hypervisor/guest-memory.ts";
import { nothingPlugged } from "../../src/host/hypervisor/virtual-machine.ts";
import { describeExit } from "../../src/shared/linux/run-process.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { createMemoryFile } from "../../src/shared/linux/memfd.ts";
import { Casemate } from "../../test/support/cli.ts";
import { TestVm } from "../../test/support/test-vm.ts";
import { BareGuest, open } from "../support/bare-guest.ts";
import { makeBenchRoot } from "../support/bench-sandbox.ts";

/** The command with state folders of its own, given back at the end. */
export class BenchCommand implements AsyncDisposable {
  readonly root = makeBenchRoot();
  readonly casemate = new Casemate(this.root);

  /** Milliseconds of one call that must succeed. */
  async time(args: readonly string[]): Promise<number> {
    const [file, ...rest] = this.casemate.commandLine(args);
    const began = performance.now();
    const child = spawn(file, rest, { stdio: ["ignore", "ignore", "pipe"] });
    let messages = "";
    child.stderr.on("data", (chunk: Buffer) => { messages += chunk.toString(); });
    const [code, signal] = await once(child, "close") as [number | null, NodeJS.Signals | null]; // child_process's "close"
    if (code !== 0) throw new Error(`casemate ${args.join(" ")}: ${describeExit({ exitCode: code ?? undefined, signal: signal ?? undefined })}: ${messages}`);
    return performance.now() - began;
  }

  /** What a call of the command printed, as JSON. */
  async json(args: readonly string[]): Promise<unknown> {
    return JSON.parse(await this.casemate.ok(args));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.casemate.removeAll();
    await releaseTemplateMemory(this.casemate.folders);
    rmSync(this.root, { recursive: true, force: true });
  }
}

/** The command that every start is measured by: the least a container can do. */
export const runTrue = ["run", "-q", "--rm", "--network", "none"];

/** Milliseconds of a cold boot to a static init, of the same kernel and arguments. */
export async function coldBootMs(): Promise<number> {
  await using guest = await BareGuest.start();
  return guest.boot.initMs;
}

const key = "ba5e".repeat(8);

/** A saved VM with nothing in it that could slow it down: a shell that answers one line on the raw port. */
export class BareTemplate implements AsyncDisposable {
  readonly #command = new BenchCommand();

  static async make(): Promise<BareTemplate> {
    const template = new BareTemplate();
    const { folders } = template.#command.casemate;
    const memoryFd = createMemoryFile(savedMemoryName, bootMemoryBytes);
    const statePath = join(template.#command.root, "bare-state");
    try {
      await using guest = await BareGuest.start(memoryFd);
      await template.#ask(guest.vm);
      const stateFd = openSync(statePath, "wx");
      await guest.vm.vm.save(stateFd, () => undefined);
      closeSync(stateFd);
      await guest.vm.vm.kill();
      const saved = await publishTemplate(folders, { key, accelerator: guest.vm.config.accelerator, kernelRelease: "", guestImageId: "", memoryBytes: bootMemoryBytes, madeInMs: 0, memoryFd, statePath, plugged: nothingPlugged });
      await holdTemplateMemory(folders, saved.key, memoryFd);
      return template;
    } catch (error) {
      await template[Symbol.asyncDispose]();
      throw error;
    } finally {
      closeSync(memoryFd);
    }
  }

  /** A VM that goes on from it; the caller ends it. */
  start(name = "bare"): Promise<TestVm> {
    return TestVm.restore(name, { folders: this.#command.casemate.folders, template: key });
  }

  /** Milliseconds from QEMU's start to the answer. */
  async restoreMs(): Promise<number> {
    const began = performance.now();
    const vm = await this.start();
    try {
      await this.#ask(vm);
      return performance.now() - began;
    } finally {
      await vm.end();
    }
  }

  async #ask(vm: TestVm): Promise<void> {
    const control = await open(vm.paths.controlSocket);
    control.write("ping\n");
    await once(control, "data");
    control.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#command[Symbol.asyncDispose]();
  }
}

/** Runs the same container until one is made from a template that holds it: one of the command's own images, so a new one. */
export async function untilPrepared(command: BenchCommand, args: readonly string[]): Promise<void> {
  const title = args.slice(runTrue.length).join(" ");
  const holding = async (): Promise<string[]> => {
    const templates = (await command.casemate.ok(["template", "ls", "--format", "json"])).split("\n").filter((line) => line !== "").map((line) => JSON.parse(line) as { readonly Key: string; readonly Holds: string }); // our own command's
    return templates.filter(({ Holds }) => Holds.endsWith(title)).map(({ Key }) => Key);
  };
  const before = await holding();
  await command.time(args);
  await command.time(args); // the second one has it made
  await eventually("make a template with the container", async () => (await holding()).some((key) => !before.includes(key)) ? true : undefined, { timeoutMs: makeTimeoutMs, intervalMs: 1_000 });
}

/** Some seconds; in the lab guest two minutes. */
const makeTimeoutMs = 300_000;
