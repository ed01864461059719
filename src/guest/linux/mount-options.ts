import { mountFlag } from "./mount.ts";

/** Options as mount(8) writes them, split into what mount(2) takes as bits and as text. */
export interface ParsedMountOptions {
  /** Bits for the mount itself. */
  readonly flags: number;
  /** Propagation needs a second mount(2) call; 0: none asked for. */
  readonly propagation: number;
  /** The file system's own options, comma separated. */
  readonly data: string;
}

const setFlags: Readonly<Record<string, number>> = {
  ro: mountFlag.RDONLY, nosuid: mountFlag.NOSUID, nodev: mountFlag.NODEV, noexec: mountFlag.NOEXEC, sync: mountFlag.SYNCHRONOUS, dirsync: mountFlag.DIRSYNC,
  noatime: mountFlag.NOATIME, nodiratime: mountFlag.NODIRATIME, relatime: mountFlag.RELATIME, strictatime: mountFlag.STRICTATIME, lazytime: mountFlag.LAZYTIME,
  bind: mountFlag.BIND, rbind: mountFlag.BIND | mountFlag.REC, remount: mountFlag.REMOUNT, silent: mountFlag.SILENT, nosymfollow: mountFlag.NOSYMFOLLOW,
};
const clearFlags: Readonly<Record<string, number>> = {
  rw: mountFlag.RDONLY, suid: mountFlag.NOSUID, dev: mountFlag.NODEV, exec: mountFlag.NOEXEC, async: mountFlag.SYNCHRONOUS, atime: mountFlag.NOATIME,
  diratime: mountFlag.NODIRATIME, norelatime: mountFlag.RELATIME, nostrictatime: mountFlag.STRICTATIME, nolazytime: mountFlag.LAZYTIME, defaults: 0, loud: mountFlag.SILENT, symfollow: mountFlag.NOSYMFOLLOW,
};
const propagationFlags: Readonly<Record<string, number>> = {
  private: mountFlag.PRIVATE, rprivate: mountFlag.PRIVATE | mountFlag.REC, shared: mountFlag.SHARED, rshared: mountFlag.SHARED | mountFlag.REC,
  slave: mountFlag.SLAVE, rslave: mountFlag.SLAVE | mountFlag.REC, unbindable: mountFlag.UNBINDABLE, runbindable: mountFlag.UNBINDABLE | mountFlag.REC,
};

/** Splits mount(8)'s options; a later one wins over an earlier one. What is not a flag goes to the file system. */
export function parseMountOptions(options: readonly string[]): ParsedMountOptions {
  let flags = 0, propagation = 0;
  const rest: string[] = [];
  for (const option of options.flatMap((text) => text.split(","))) {
    if (option === "") continue;
    const set = setFlags[option], clear = clearFlags[option], propagate = propagationFlags[option];
    if (set !== undefined) flags |= set;
    else if (clear !== undefined) flags &= ~clear;
    else if (propagate !== undefined) propagation = propagate;
    else rest.push(option);
  }
  return { flags, propagation, data: rest.join(",") };
}
