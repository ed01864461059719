import { RuntimeError } from "../../shared/base/errors.ts";
import type { OwnerClient } from "../control/owner-client.ts";
import type { ContainerRecord } from "../store/container-store.ts";
import type { StateFolders } from "../store/paths.ts";
import { buildVmProcess } from "./build-spec.ts";
import { requireRunning, withOwner } from "./end-container.ts";
import { runCollected } from "./run-collected.ts";

/** What the guest's ps can say of a process: its users and groups, ids, terminal, state (S sleeping, R running, Z ended, ...), priority, memory, program and command line. */
export type ProcessColumn = "user" | "ruser" | "group" | "rgroup" | "pid" | "ppid" | "pgid" | "sid" | "tty" | "stat" | "nice" | "vsz" | "rss" | "comm" | "args";

type ProcessFacts = Partial<Record<ProcessColumn, string>>;

/** These may have blanks in them, so ps is asked for them last. */
const lastColumns: readonly ProcessColumn[] = ["args", "comm"];

/** The processes of a running container, a row for each: the guest lists all of its own, the container's cgroup says which count. */
export async function listProcesses(folders: StateFolders, record: ContainerRecord, columns: readonly ProcessColumn[]): Promise<string[][]> {
  requireRunning(folders, record, "list the processes of");
  return withOwner(folders, record, async (client) => {
    const { processes } = await client.task.pids({ id: record.containerId });
    const lists: ReadonlyMap<number, ProcessFacts>[] = [];
    for (const asked of splitColumns(columns)) lists.push(parseProcesses(await runInGuest(client, ["/bin/busybox", "ps", "-o", asked.join(",")]), asked));
    return processes.flatMap(({ pid }) => {
      const found = lists.map((list) => list.get(pid));
      if (found.includes(undefined)) return []; // it ended meanwhile
      const facts = found.reduce<ProcessFacts>((all, some) => ({ ...all, ...some }), {});
      return [columns.map((column) => facts[column] ?? "")];
    });
  });
}

/** The lists to ask ps for: each begins with the pid, and has one column at most that may hold blanks. */
export function splitColumns(columns: readonly ProcessColumn[]): ProcessColumn[][] {
  const first = [...new Set<ProcessColumn>(["pid", ...columns])].filter((column) => !lastColumns.includes(column));
  const [last, ...more] = lastColumns.filter((column) => columns.includes(column));
  return [[...first, ...last === undefined ? [] : [last]], ...more.map((column): ProcessColumn[] => ["pid", column])];
}

/** Parses what `ps -o` prints below its heading, by pid. */
export function parseProcesses(text: string, columns: readonly ProcessColumn[]): Map<number, ProcessFacts> {
  const line = new RegExp(`^\\s*${columns.slice(1).map(() => "(\\S+)\\s+").join("")}(\\S.*?)\\s*$`);
  return new Map(text.split("\n").slice(1).flatMap((one) => {
    const [, ...values] = line.exec(one) ?? [];
    return values.length === 0 ? [] : [[Number(values[0]), Object.fromEntries(columns.map((column, index) => [column, nameTerminal(values[index] ?? "", column)]))] as const];
  }));
}

/** The guest's ps knows terminals of its own /dev alone; of a container's it says the numbers. */
function nameTerminal(value: string, column: ProcessColumn): string {
  return column === "tty" ? value.replace(/^136,/, "pts/") : value;
}

async function runInGuest(client: OwnerClient, args: readonly string[]): Promise<string> {
  const { end, stdout, stderr } = await runCollected(client, "", buildVmProcess({ args, env: [], terminal: false, privileged: false, workingDir: "/" }));
  if (end.type !== "exit" || end.exitStatus !== 0) throw new RuntimeError("internal", `run ${args.join(" ")} in the guest: ${stderr.trim()}`);
  return stdout;
}
