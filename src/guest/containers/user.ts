import { RootFolder } from "../linux/resolve-beneath.ts";
import { resolveUser, type ResolvedUser } from "./user-lookup.ts";

/** Larger user databases are refused; 1 MiB holds about 20,000 users. */
const maxDatabaseBytes = 1024 * 1024;

/** Resolves docker's USER syntax in a root file system. An image without the files has numbers only. Empty: undefined. */
export async function lookUpUser(user: string, rootPath: string): Promise<ResolvedUser | undefined> {
  if (user === "") return undefined;
  using root = RootFolder.open(rootPath);
  const passwd = await root.readFile("/etc/passwd", maxDatabaseBytes);
  const group = await root.readFile("/etc/group", maxDatabaseBytes);
  return resolveUser(user, passwd ?? "", group ?? "");
}
