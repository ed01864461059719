import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { StateFolders } from "../../src/host/store/paths.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";

/**
 * Before this version a thread of the emulator could run code that another was just changing (docs/lab-guest.md);
 * since then a page is locked before it is translated. https://wiki.qemu.org/ChangeLog/8.1
 */
const soundSince = [8, 1] as const;
const packages = ["qemu-system-x86", "qemu-system-data"] as const;
const program = "usr/bin/qemu-system-x86_64";
/** Two packages of some 12 MB over a slow line. */
const fetchTimeoutMs = 10 * 60_000;
const askTimeoutMs = 60_000;

/** A QEMU with what it has to be told to find its firmware. */
export interface LabQemu {
  readonly program: string;
  readonly args: readonly string[];
}

/** The machine's own QEMU when it emulates several CPUs well, or else the one of Debian's backports, fetched once and never installed. The caller holds the lab's lock. */
export async function ensureLabQemu(folders: StateFolders): Promise<LabQemu> {
  const { stdout } = await runProcess("qemu-system-x86_64", ["--version"], { timeoutMs: askTimeoutMs });
  const [major = 0, minor = 0] = (/version (\d+)\.(\d+)/.exec(stdout.toString()) ?? []).slice(1).map(Number);
  if (major > soundSince[0] || (major === soundSince[0] && minor >= soundSince[1])) return { program: "qemu-system-x86_64", args: [] };
  const folder = join(folders.data, "guest/lab-qemu");
  if (!existsSync(folder)) await fetchQemu(folder);
  // SeaBIOS is a package of its own, and the installed one will do.
  return { program: join(folder, program), args: ["-L", join(folder, "usr/share/qemu"), "-L", "/usr/share/seabios"] };
}

async function fetchQemu(folder: string): Promise<void> {
  const draft = mkdtempSync(`${folder}.new-`);
  try {
    const source = join(draft, "backports.list");
    writeFileSync(source, await backportsSource());
    for (const lists of ["lists/partial", "unpacked"]) mkdirSync(join(draft, lists), { recursive: true });
    const options = [`Dir::Etc::SourceList=${source}`, "Dir::Etc::SourceParts=-", `Dir::State::Lists=${join(draft, "lists")}`, "APT::Sandbox::User=root", "Acquire::Retries=3"].flatMap((option) => ["-o", option]);
    await runProcess("apt-get", [...options, "update"], { timeoutMs: fetchTimeoutMs });
    await runProcess("apt-get", [...options, "download", ...packages], { cwd: draft, timeoutMs: fetchTimeoutMs });
    for (const archive of readdirSync(draft).filter((name) => name.endsWith(".deb"))) await runProcess("dpkg-deb", ["-x", join(draft, archive), join(draft, "unpacked")], { timeoutMs: askTimeoutMs });
    renameSync(join(draft, "unpacked"), folder);
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

/** A line for apt: the backports of this Debian, from where this machine has Debian from. */
async function backportsSource(): Promise<string> {
  const { stdout } = await runProcess("apt-get", ["indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages", "Origin: Debian", "Component: main"], { timeoutMs: askTimeoutMs });
  const target = /^(\S+) ([a-z]+)$/m.exec(stdout.toString()); // not bookworm-updates
  if (target === null) throw new Error("apt knows no Debian archive to take the backports' QEMU for the lab guest from: see `apt-get indextargets`");
  const [, uri = "", codename = ""] = target;
  return `deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${uri} ${codename}-backports main\n`;
}
