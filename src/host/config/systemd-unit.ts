import { existsSync, mkdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError } from "../../shared/base/errors.ts";
import { writeFileAtomic } from "../../shared/linux/atomic-file.ts";

/** The unit that starts containers when the host comes up. */
export interface SystemdUnit {
  /** The command with its options, without what it is to do. */
  readonly command: readonly string[];
  /** An ordinary user's own systemd, or the system's. */
  readonly user: boolean;
}

export const unitName = "casemate.service";

/** Where systemd looks for it: systemd.unit(5). */
export function unitFolder(user: boolean, env: NodeJS.ProcessEnv = process.env): string {
  return user ? join(env["XDG_CONFIG_HOME"] ?? join(env["HOME"] ?? "/", ".config"), "systemd/user") : "/etc/systemd/system";
}

/** The unit's text. Its containers live in its cgroup, so it tells them to stop before systemd ends what is left. */
export function formatUnit({ command, user }: SystemdUnit): string {
  const line = command.map(quote).join(" ");
  return `# Made by \`casemate setup systemd\`, removed by \`casemate setup systemd --remove\`.
[Unit]
Description=Containers of casemate with a restart policy
${user ? "" : "Wants=network-online.target\nAfter=network-online.target local-fs.target\n"}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=${line} setup start
ExecStop=${line} setup stop
TimeoutStartSec=infinity
TimeoutStopSec=5min
KillMode=mixed

[Install]
WantedBy=${targetOf(user)}
`;
}

/** Writes the unit and has it started at boot. Returns its path. */
export function installUnit(folder: string, unit: SystemdUnit): string {
  const path = join(folder, unitName);
  const wants = join(folder, `${targetOf(unit.user)}.wants`);
  try {
    mkdirSync(wants, { recursive: true });
    writeFileAtomic(path, formatUnit(unit), 0o644);
    rmSync(join(wants, unitName), { force: true });
    symlinkSync(`../${unitName}`, join(wants, unitName)); // what `systemctl enable` does, where no systemd runs too
  } catch (error) {
    throw RuntimeError.wrap(error, `write "${path}"`);
  }
  return path;
}

/** Takes the unit away. False: there was none. */
export function removeUnit(folder: string, user: boolean): boolean {
  const path = join(folder, unitName);
  const there = existsSync(path);
  rmSync(join(folder, `${targetOf(user)}.wants`, unitName), { force: true });
  rmSync(path, { force: true });
  return there;
}

function targetOf(user: boolean): string {
  return user ? "default.target" : "multi-user.target";
}

/** A word of a command line as systemd.service(5) reads it. */
function quote(word: string): string {
  const escaped = word.replaceAll("%", "%%").replaceAll("$", "$$$$");
  return /^[\w@:,./+=%$-]+$/.test(escaped) ? escaped : `"${escaped.replaceAll("\\", "\\\\").replaceAll("\"", "\\\"")}"`;
}
