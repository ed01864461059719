import { RuntimeError } from "../../shared/base/errors.ts";
import type { ResourceKind, ResourceRecord } from "./ledger.ts";
import { claimNumber, freeNumber } from "./number-claim.ts";

/** The unprivileged user (and group) that a sandbox's QEMU and passt run as; nobody else is that user. */
export interface SandboxUser {
  readonly uid: number;
  readonly gid: number;
}

/** Users of sandboxes: far above what distributions, systemd (up to 1,879,048,191 in parts) and subuid files give out by default. */
const firstUid = 1_900_000_000;
const uidCount = 65_536;

/** The ledger's record of a user. `number` is -1 until one is claimed. */
export interface SandboxUserRecord extends ResourceRecord {
  readonly kind: "sandbox-user";
  readonly folder: string;
  readonly sandboxId: string;
  readonly number: number;
}

/** A user id of a sandbox's own, so that one that takes over its QEMU finds nothing of another sandbox. */
export const sandboxUserKind: ResourceKind<{ readonly folder: string; readonly sandboxId: string }, SandboxUserRecord, SandboxUser> = {
  kind: "sandbox-user",
  plan: ({ folder, sandboxId }) => ({ kind: "sandbox-user", name: "user", folder, sandboxId, number: -1 }),
  act: async (record, _spec, note) => {
    const number = claimNumber({ folder: record.folder, holder: record.sandboxId }, uidCount);
    if (number === undefined) throw new RuntimeError("resource_exhausted", `claim a user id: all ${uidCount} are in use`, { reason: "no_user", hint: "remove sandboxes" });
    note({ ...record, number });
    return { uid: firstUid + number, gid: firstUid + number };
  },
  release: async (record) => freeNumber({ folder: record.folder, holder: record.sandboxId }, record.number),
};
