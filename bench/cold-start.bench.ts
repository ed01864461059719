import { TestVm } from "../test/support/test-vm.ts";
import type { PairBench } from "./bench.ts";
import { BareGuest } from "./support/bare-guest.ts";

async function agentReadyMs(): Promise<number> {
  const began = performance.now();
  const vm = await TestVm.boot("bench");
  try {
    const agent = await vm.connect();
    const took = performance.now() - began;
    agent.close();
    return took;
  } finally {
    await vm.end();
  }
}

/** The kernel's own time, and what starting a Node in that guest costs; loading the modules and mounting the image in between is not counted. */
async function bareMs(): Promise<number> {
  await using guest = await BareGuest.start();
  return guest.boot.initMs + guest.boot.nodeMs;
}

const bench: PairBench = {
  kind: "pairs",
  title: "cold start to agent ready ÷ (bare boot to a static init + one cold `node -e 0`)",
  unit: "ms",
  limit: { atMost: 1.25 },
  pairs: 6,
  open: async () => ({ a: agentReadyMs, b: bareMs, [Symbol.asyncDispose]: async () => { /* each measurement has ended its own VM */ } }),
};
export default bench;
