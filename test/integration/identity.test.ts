// Who a clone is: many of one template share nothing that should be its own.
// - what the kernel draws, names, addresses and the clock, of clones that all run at once
// - the same questions without the refresh after the restore find the answers shared: they would notice
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import { watchHost } from "../support/host-clean.ts";
import { requires } from "../support/requires.ts";
import { callTimeoutMs, SandboxHost, type HostedSandbox } from "../support/sandbox-host.ts";
import { countShared, type Facts } from "../support/shared-facts.ts";

const cloneCount = 20, atOnce = 2;
const unrefreshedCount = 4;
/** How far a guest's clock may be from the host's. */
const clockToleranceMs = 50;
/** The quickest of so many answers says best what time it was in the guest. */
const clockTries = 10;

/** In the guest itself: a name and a value a line. The first ones come before the kernel reseeds itself, which it does after some seconds. */
const questions = `
hex() { hexdump -v -e '16/1 "%02x" "\\n"'; }
echo "urandom $(head -c 16 /dev/urandom | hex)"
echo "uuid $(cat /proc/sys/kernel/random/uuid)"
echo "getrandom $(mktemp -u /XXXXXX)$(mktemp -u /XXXXXX)"
at=$(od -An -v -tx8 -w16 /proc/$$/auxv | awk '$1 ~ /^0*19$/ { print $2 }')
echo "AT_RANDOM $(dd if=/proc/$$/mem bs=1 skip=$((0x$at)) count=16 2>/dev/null | hex)"
echo "stack $(grep -F '[stack]' /proc/$$/maps | cut -d ' ' -f 1)"
echo "boot_id $(cat /proc/sys/kernel/random/boot_id)"
mkdir -p /run/proc; mount -t proc proc /run/proc
echo "kernel's-own-boot_id $(cat /run/proc/sys/kernel/random/boot_id)"
umount /run/proc
echo "hostname $(hostname)"
echo "machine-id $(cat /etc/machine-id 2>/dev/null)"
echo "MAC $(cat /sys/class/net/eth0/address 2>/dev/null)"
echo "IP $(ip -4 -o addr show eth0 2>/dev/null | awk '{ print $4 }')"
`;

describe("clones of one template", { skip: requires("root") }, () => {
  const watch = watchHost();

  test("share nothing; without the refresh they share what it gives", async () => {
    {
      await using host = await SandboxHost.open();
      const waiting = Array.from({ length: cloneCount }, (_, index) => `clone${index}`);
      const facts: Facts[] = [], offsetsMs: number[] = [];
      const workers = await Promise.allSettled(Array.from({ length: atOnce }, async () => {
        for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
          const clone = await host.create(name, { network: "user" });
          assert.equal(clone.sandbox.vm.startedBy, "template");
          facts.push(await ask(host, clone));
          offsetsMs.push(await clockOffsetMs(clone));
        }
      }));
      for (const worker of workers) if (worker.status === "rejected") throw worker.reason;
      const counted = countShared(facts);
      console.log(counted.text);
      console.log(`clocks: ${offsetsMs.map((offset) => offset.toFixed(1)).join(", ")} ms off`);
      assert.deepEqual(counted.shared, []);
      assert.deepEqual(offsetsMs.filter((offset) => Math.abs(offset) > clockToleranceMs), []);

      const unrefreshed: Facts[] = [];
      for (let index = 0; index < unrefreshedCount; index++) {
        const clone = await host.create(`same${index}`, { pristine: true });
        const { MAC: _mac, IP: _ip, ...own } = await ask(host, clone); // it has no network
        unrefreshed.push(own);
        assert.ok(Math.abs(await clockOffsetMs(clone)) > clockToleranceMs, "the clock goes on from the template's");
      }
      const control = countShared(unrefreshed);
      console.log(`without the refresh: ${control.text}`);
      assert.deepEqual(control.shared, Object.keys(unrefreshed[0] ?? {}));
    }
    await watch.assertHostClean();
  });
});

async function ask(host: SandboxHost, clone: HostedSandbox): Promise<Facts> {
  const { output } = await host.run(clone, "", questions);
  return Object.fromEntries(output.split("\n").map((line) => line.split(" ", 2) as [string, string | undefined]).map(([name, value = ""]) => [name, value]));
}

/** The host's clock less the guest's, with what the question's way there and back leaves open taken off. */
async function clockOffsetMs({ sandbox }: HostedSandbox): Promise<number> {
  let best = { offset: NaN, roundTripMs: Infinity };
  for (let index = 0; index < clockTries; index++) {
    const sent = Date.now(), began = performance.now();
    const { unixNanos } = await sandbox.agent.guest.refresh({ sandboxId: sandbox.config.sandboxId, entropy: randomBytes(64) }, { timeoutMs: callTimeoutMs });
    const roundTripMs = performance.now() - began;
    if (roundTripMs < best.roundTripMs) best = { offset: sent + roundTripMs / 2 - Number(unixNanos / 1_000n) / 1_000, roundTripMs };
  }
  return Math.sign(best.offset) * Math.max(0, Math.abs(best.offset) - best.roundTripMs / 2);
}
