import { createHash } from "node:crypto";

/** What a saved VM depends on. Anything that may change what it does or whether it can be restored must be in here. */
export interface TemplateFacts {
  /** Hash over kernel, initramfs and root image, the agent in it included. */
  readonly guestImageId: string;
  readonly accelerator: string;
  /** VMM, machine, CPU and host (assemble.ts, machineFacts). */
  readonly machine: string;
}

/** Raise it when templates made by older versions of this program must not be used: their warm-up or their files differ. */
const format = 2;

/** Names the template for these facts: 32 hexadecimal digits. */
export function templateKey(facts: TemplateFacts): string {
  return createHash("sha256").update(JSON.stringify([format, facts.guestImageId, facts.accelerator, facts.machine])).digest("hex").slice(0, 32);
}
