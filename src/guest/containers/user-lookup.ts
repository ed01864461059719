import { RuntimeError } from "../../shared/base/errors.ts";

/** Whom a process runs as. */
export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  /** With the primary group among them, as docker and podman have it: dropping it by setgid must not shake off what is denied to it. */
  readonly additionalGids: readonly number[];
  /** Home folder by /etc/passwd; undefined when the user is not in it. */
  readonly home: string | undefined;
}

/** The kernel's highest ids; (uid_t)-1 means "no change" to system calls. */
const maxId = 0xffff_fffe;
/** Supplementary groups a process may have (NGROUPS_MAX). */
const maxGroups = 65_536;

interface PasswdEntry { readonly name: string; readonly uid: number; readonly gid: number; readonly home: string }
interface GroupEntry { readonly name: string; readonly gid: number; readonly members: readonly string[] }

/**
 * Resolves docker's USER syntax, `name|uid[:group|gid]`, against an image's files. A number need not
 * be listed; a name must. A group given explicitly replaces all groups of the user, as docker does.
 * @throws RuntimeError `invalid_argument` (reason `user_not_found`).
 */
export function resolveUser(user: string, passwd: string, group: string): ResolvedUser {
  const [userPart = "", groupPart, ...more] = user.split(":");
  if (more.length > 0) throw notFound(user, "more than one \":\"");
  const entry = findUser(parsePasswd(passwd), userPart === "" ? "0" : userPart);
  const uid = entry?.uid ?? parseId(userPart);
  if (uid === undefined) throw notFound(user, `no user "${userPart}" in the image's /etc/passwd`);
  const groups = parseGroup(group);
  if (groupPart !== undefined && groupPart !== "") {
    const gid = groups.find(({ name }) => name === groupPart)?.gid ?? parseId(groupPart);
    if (gid === undefined) throw notFound(user, `no group "${groupPart}" in the image's /etc/group`);
    return { uid, gid, additionalGids: [gid], home: entry?.home };
  }
  const gid = entry?.gid ?? 0;
  const additionalGids = entry === undefined ? [] : groups.filter(({ members }) => members.includes(entry.name)).map((found) => found.gid);
  return { uid, gid, additionalGids: [...new Set([gid, ...additionalGids])].slice(0, maxGroups), home: entry?.home };
}

/** A user name that is a number wins over the number, as in getpwnam before atoi. */
function findUser(entries: readonly PasswdEntry[], user: string): PasswdEntry | undefined {
  const uid = parseId(user);
  return entries.find(({ name }) => name === user) ?? (uid === undefined ? undefined : entries.find((entry) => entry.uid === uid));
}

/** passwd(5): name:password:UID:GID:GECOS:directory:shell. Lines that do not parse are skipped, as libc does. */
function parsePasswd(text: string): PasswdEntry[] {
  return records(text).flatMap(([name = "", , uidText = "", gidText = "", , home = ""]) => {
    const uid = parseId(uidText), gid = parseId(gidText);
    return name === "" || uid === undefined || gid === undefined ? [] : [{ name, uid, gid, home: home === "" ? "/" : home }];
  });
}

/** group(5): name:password:GID:user_list. */
function parseGroup(text: string): GroupEntry[] {
  return records(text).flatMap(([name = "", , gidText = "", members = ""]) => {
    const gid = parseId(gidText);
    return name === "" || gid === undefined ? [] : [{ name, gid, members: members.split(",").map((member) => member.trim()).filter((member) => member !== "") }];
  });
}

function records(text: string): string[][] {
  return text.split("\n").filter((line) => line.trim() !== "" && !line.startsWith("#")).map((line) => line.replace(/\r$/, "").split(":"));
}

function parseId(text: string): number | undefined {
  if (!/^[0-9]{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  return id <= maxId ? id : undefined;
}

function notFound(user: string, why: string): RuntimeError {
  return new RuntimeError("invalid_argument", `user "${user}": ${why}`, { reason: "user_not_found", hint: "name a user of the image, or give a number" });
}
