import { chooseAccelerator } from "../../src/host/assemble.ts";
import { ensureTemplate } from "../../src/host/containers/ensure-template.ts";
import { ensureGuestImage } from "../../src/host/guest-image/guest-image.ts";
import { kernelRandomBytes } from "../../src/shared/linux/random.ts";
import { TestVm } from "../../test/support/test-vm.ts";
import type { PairBench } from "../bench.ts";
import { BareTemplate, BenchCommand } from "./support.ts";

/** Milliseconds from QEMU's start to a guest that has answered with its new identity. */
async function restoreMs(command: BenchCommand, template: string): Promise<number> {
  const began = performance.now();
  const vm = await TestVm.restore("bench", { folders: command.casemate.folders, template });
  try {
    const agent = await vm.connect({ first: true });
    await agent.client.guest.refresh({ sandboxId: "bench", hostname: "bench", machineId: "1".repeat(32), entropy: kernelRandomBytes(64), unixNanos: BigInt(Date.now()) * 1_000_000n });
    const took = performance.now() - began;
    agent.close();
    return took;
  } finally {
    await vm.end();
  }
}

const bench: PairBench = {
  kind: "pairs",
  title: "restore to the agent's answer, refresh included ÷ bare restore",
  unit: "ms",
  limit: { atMost: 1.5 },
  pairs: 20,
  async open() {
    const stack = new AsyncDisposableStack();
    const command = stack.use(new BenchCommand());
    const { folders } = command.casemate;
    const guestImage = await ensureGuestImage(folders);
    const { accelerator } = await chooseAccelerator(folders, guestImage);
    const template = await ensureTemplate({ folders, guestImage, accelerator }, () => undefined, { timeoutMs: 120_000 });
    if (template.key === undefined) throw new Error(`no template: ${template.why}`);
    const { key } = template;
    const bare = stack.use(await BareTemplate.make());
    return { a: () => restoreMs(command, key), b: () => bare.restoreMs(), [Symbol.asyncDispose]: () => stack.disposeAsync() };
  },
};
export default bench;
