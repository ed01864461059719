import { linkSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { kernelRandomBytes } from "../../shared/linux/random.ts";

/** Where numbers are claimed: one file a number, its content says who holds it. */
export interface NumberClaims {
  readonly folder: string;
  readonly holder: string;
}

/**
 * Claims a number below `count`. The claim is a hard link: it appears with its content or not at all,
 * and only one of two can make it, so no lock is needed and a crash leaves nothing half-made.
 * Undefined when all are taken.
 */
export function claimNumber({ folder, holder }: NumberClaims, count: number): number | undefined {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const draft = draftPath({ folder, holder });
  writeFileSync(draft, holder, { mode: 0o600 });
  try {
    // Begin anywhere, so that those who start together seldom meet.
    const first = kernelRandomBytes(4).readUInt32LE(0) % count;
    for (let step = 0; step < count; step++) {
      const number = (first + step) % count;
      if (tryLink(draft, join(folder, String(number)))) return number;
    }
    return undefined;
  } finally {
    rmSync(draft, { force: true });
  }
}

/** Frees a number if the holder has it. A number below 0 means that it is not known: the crash came between the claim and its note. */
export function freeNumber({ folder, holder }: NumberClaims, number: number): void {
  rmSync(draftPath({ folder, holder }), { force: true });
  const candidates = number >= 0 ? [String(number)] : claimedNumbers(folder);
  for (const name of candidates) if (holderOf(folder, name) === holder) rmSync(join(folder, name), { force: true });
}

function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if (isErrnoException(error, "EEXIST")) return false;
    throw RuntimeError.wrap(error, `claim number "${to}"`);
  }
}

function draftPath({ folder, holder }: NumberClaims): string {
  return join(folder, `.draft-${holder}`);
}

function claimedNumbers(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => /^\d+$/.test(name));
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return [];
    throw error;
  }
}

function holderOf(folder: string, name: string): string | undefined {
  try {
    return readFileSync(join(folder, name), "utf8");
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return undefined;
    throw error;
  }
}
