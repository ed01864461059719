import { RuntimeError } from "../../shared/base/errors.ts";
import type { OwnerClient } from "../control/owner-client.ts";
import type { ContainerRecord } from "../store/container-store.ts";
import type { StateFolders } from "../store/paths.ts";
import { buildVmProcess } from "./build-spec.ts";
import { requireRunning, withOwner } from "./end-container.ts";
import { runCollected } from "./run-collected.ts";

/** One process of a container, as the guest sees it. */
export interface ListedProcess {
  readonly user: string;
  readonly pid: number;
  readonly parentPid: number;
  readonly terminal: string;
  /** As ps writes it: S sleeping, R running, Z ended, ... */
  readonly state: string;
  readonly command: string;
}

/** The guest's ps has these, each without blanks but for the last. */
const columns = "user,pid,ppid,tty,stat,args";

/** The processes of a running container: the guest lists all of its own, the container's cgroup says which count. */
export async function listProcesses(folders: StateFolders, record: ContainerRecord): Promise<ListedProcess[]> {
  requireRunning(folders, record, "list the processes of");
  return withOwner(folders, record, async (client) => {
    const { processes } = await client.task.pids({ id: record.containerId });
    const pids = new Set(processes.map(({ pid }) => pid));
    return parseProcesses(await runInGuest(client, ["/bin/busybox", "ps", "-o", columns])).filter(({ pid }) => pids.has(pid));
  });
}

/** Parses the lines of `ps -o user,pid,ppid,tty,stat,args` below its heading. */
export function parseProcesses(text: string): ListedProcess[] {
  return text.split("\n").slice(1).flatMap((line) => {
    const [, user, pid, parentPid, terminal, state, command] = /^\s*(\S+)\s+(\d+)\s+(\d+)\s+(\S+)\s+(\S+)\s+(.*\S)\s*$/.exec(line) ?? [];
    return user === undefined ? [] : [{ user, pid: Number(pid), parentPid: Number(parentPid), terminal: terminal ?? "", state: state ?? "", command: command ?? "" }];
  });
}

async function runInGuest(client: OwnerClient, args: readonly string[]): Promise<string> {
  const { end, stdout, stderr } = await runCollected(client, "", buildVmProcess({ args, env: [], terminal: false, privileged: false, workingDir: "/" }));
  if (end.type !== "exit" || end.exitStatus !== 0) throw new RuntimeError("internal", `run ${args.join(" ")} in the guest: ${stderr.trim()}`);
  return stdout;
}
