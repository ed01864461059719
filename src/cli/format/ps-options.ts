import type { ProcessColumn } from "../../host/containers/list-processes.ts";
import { RuntimeError } from "../../shared/base/errors.ts";

/** A column of `top`. */
export interface PsColumn {
  readonly name: ProcessColumn;
  readonly heading: string;
}

/** ps(1)'s names for what the guest's ps knows. */
const columns: Readonly<Record<string, PsColumn>> = Object.fromEntries(([
  ["user", "USER", "user euser uname"], ["ruser", "RUSER", "ruser"], ["group", "GROUP", "group egroup"], ["rgroup", "RGROUP", "rgroup"],
  ["pid", "PID", "pid tgid"], ["ppid", "PPID", "ppid"], ["pgid", "PGID", "pgid pgrp"], ["sid", "SID", "sid sess session"],
  ["tty", "TTY", "tty tt tname"], ["stat", "STAT", "stat state s"], ["nice", "NI", "nice ni"], ["vsz", "VSZ", "vsz vsize"], ["rss", "RSS", "rss rssize rsz"],
  ["comm", "COMMAND", "comm ucmd ucomm"], ["args", "COMMAND", "args command"], ["args", "CMD", "cmd"],
] as const).flatMap(([name, heading, names]) => names.split(" ").map((one) => [one, { name, heading }])));

/** All that is shown is of one container anyway, so that which processes are chosen does not matter. */
const choices = /^-?[Aaefgx]+$/;
const userList = /^-?(?=[a-z]*u)[aeguwx]+$/;

/**
 * The columns that ps(1)'s options ask for: none and `-ef` our own, `aux` those with memory, `-o LIST` what is in the
 * list. @throws RuntimeError `invalid_argument` (reason `bad_ps_option`) for what the guest's ps cannot do.
 */
export function parsePsOptions(words: readonly string[]): PsColumn[] {
  let lists: string[] = [];
  let wanted = "user,pid,ppid,tty,stat,cmd";
  for (let index = 0; index < words.length; index++) {
    const word = words[index] ?? "";
    const [, inWord] = /^(?:--format=|-?[Aaex]*o)(.*)$/.exec(word) ?? (word === "--format" ? [word, ""] : []);
    if (inWord !== undefined) lists = [...lists, inWord === "" ? words[++index] ?? "" : inWord];
    else if (userList.test(word)) wanted = "user,pid,vsz,rss,tty,stat,args";
    else if (!choices.test(word)) throw refused(`option "${word}" is not understood`);
  }
  return (lists.length === 0 ? wanted : lists.join(",")).split(/[, ]+/).map((name) => columns[name] ?? fail(name));
}

function fail(name: string): never {
  throw refused(`there is no column "${name}", only ${Object.keys(columns).join(", ")}`);
}

function refused(why: string): RuntimeError {
  return new RuntimeError("invalid_argument", `ps in the guest: ${why}`, { reason: "bad_ps_option", hint: "give -ef, aux or -o COLUMN,...; `casemate exec CONTAINER ps ...` runs the image's own ps" });
}
