import { AssertionError } from "node:assert";
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { adoptOrphans } from "../../scripts/test-runner/descendants.ts";
import { type HostListing, type ListingOptions, listHost } from "./host-listing.ts";

/** Options of {@link watchHost}. */
export interface CleanOptions extends Partial<ListingOptions> {
  /** How long ends that are under way may take, in milliseconds. Default 5000: a killed QEMU with 1 GiB needs one second on a loaded machine. */
  readonly graceMs?: number;
  /**
   * Things that other programs of the machine make and remove meanwhile, by kind. Only for what
   * cannot be ours.
   */
  readonly ignore?: (kind: string, line: string) => boolean;
}

/** The host as it was; asked at the end whether it is so again. */
export interface HostWatch {
  /** @throws AssertionError that lists exactly what is there now and was not before. */
  readonly assertHostClean: () => Promise<void>;
}

/**
 * Takes full listings of the host before a test. Full, because what a test leaks it does not know
 * of; so no two tests that use this may run at once. This process adopts orphans from now on.
 */
export function watchHost(options: CleanOptions = {}): HostWatch {
  // A developer's machine does other work meanwhile; in continuous integration the machine is ours alone.
  const listing: ListingOptions = { folders: options.folders ?? [], shared: options.shared ?? process.env["CI"] === undefined };
  adoptOrphans();
  makeFirstUseTraces();
  const ignore = options.ignore ?? (() => false);
  const before = listHost(listing);
  const left = (): string[] => added(before, listHost(listing), ignore);
  return {
    assertHostClean: async () => {
      try {
        await eventually("a clean host", () => (left().length === 0 ? true : undefined), { timeoutMs: options.graceMs ?? 5_000, intervalMs: 100 });
      } catch (error) {
        if (!RuntimeError.is(error, "deadline_exceeded")) throw error;
        const remaining = left();
        if (remaining.length > 0) throw new AssertionError({ message: `left on the host:\n${remaining.map((line) => `  ${line}`).join("\n")}` });
      }
    },
  };
}

/**
 * Makes what the system's own tools make for themselves at their first use on a machine and keep for
 * ever, so that no test is the one that brings it: the folders of mount(8) and crun, and iproute2's, which is a mount.
 */
function makeFirstUseTraces(): void {
  if (process.geteuid?.() !== 0) return; // an ordinary user's tools leave nothing there
  for (const folder of ["/run/mount", "/run/crun"]) mkdirSync(folder, { recursive: true });
  const name = `cm-first-use-${process.pid}`;
  for (const verb of ["add", "delete"]) {
    const { status, stderr } = spawnSync("ip", ["netns", verb, name], { encoding: "utf8" });
    if (status !== 0) throw new Error(`ip netns ${verb} ${name}: ${stderr}`);
  }
}

/** What is in the second listing only, and what is in the first only where its loss is damage too. */
function added(before: HostListing, after: HostListing, ignore: (kind: string, line: string) => boolean): string[] {
  return [...after].flatMap(([kind, listed]) =>
    [...listed].filter((line) => before.get(kind)?.has(line) !== true && !ignore(kind, line)).map((line) => `${kind}: ${line}`));
}
