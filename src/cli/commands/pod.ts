import { Option, type Command } from "commander";
import { createPod, podContainers, podRuns, removePod, stopPod } from "../../host/containers/pods.ts";
import { formatPublished, parsePublish } from "../../host/network/publish.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import type { StateFolders } from "../../host/store/paths.ts";
import { PodStore, type PodEnding, type PodRecord } from "../../host/store/pod-store.ts";
import { readPresentStatus } from "../../host/store/present-status.ts";
import { collect, foldersOf, globalOptions } from "../command.ts";
import { formatJsonLines, formatTable } from "../format/table.ts";
import { formatAgo, formatTime, parseSeconds } from "../format/time.ts";
import { forEach } from "./each.ts";
import { defineRunOptions } from "./run-options.ts";
import { runInPod, type RunCommandFlags } from "./run.ts";

interface CreateFlags {
  readonly publish?: readonly string[];
  readonly network: "none" | "user";
  readonly sharePid?: boolean;
  readonly ending: PodEnding;
}

export function define(pod: Command): void {
  pod.enablePositionalOptions();
  pod.addHelpText("after", "\nExamples:\n  casemate pod create -p 8080:80 shop\n  casemate pod run -d --name web shop busybox httpd -f -p 80\n  casemate pod run --rm shop busybox wget -qO- http://localhost\n  casemate pod rm -f shop");
  defineCreate(pod);
  defineRun(pod);
  definePs(pod);
  const each = (work: (folders: StateFolders, record: PodRecord) => Promise<void>) => async (names: readonly string[]): Promise<void> => {
    const folders = foldersOf(pod);
    await forEach(names, globalOptions(pod).debug ?? false, async (name) => {
      await work(folders, new PodStore(folders).find(name));
      process.stdout.write(`${name}\n`);
    });
  };
  pod.command("stop").description("stop all containers of pods, then their sandboxes").exitOverride()
    .argument("<pod...>", "names")
    .option("-t, --time <seconds>", "time between the stop signal and SIGKILL; default: each container's")
    .action((names: readonly string[], flags: { readonly time?: string }) => each((folders, record) => stopPod(folders, record, flags.time === undefined ? {} : { timeoutMs: parseSeconds(flags.time, "--time") }))(names));
  pod.command("rm").description("remove pods with their containers").exitOverride()
    .argument("<pod...>", "names")
    .option("-f, --force", "also those whose containers run")
    .action((names: readonly string[], flags: { readonly force?: boolean }) => each((folders, record) => removePod(folders, record, { force: flags.force ?? false }))(names));
}

function defineCreate(pod: Command): void {
  pod.command("create").description("make a pod; its VM starts with its first container").exitOverride()
    .argument("<name>", "name of the pod, and host name of its containers")
    .option("-p, --publish <[ip:]host:container[/udp]>", "make a port of the pod reachable on the host", collect)
    .addOption(new Option("--network <mode>", "network of all its containers").choices(["user", "none"]).default("user"))
    .option("--share-pid", "its containers see each other's processes")
    .addOption(new Option("--ending <when>", "the VM ends with its last container, with its first, or when it is stopped").choices(["last", "first", "stop"]).default("last"))
    .action((name: string, flags: CreateFlags) => {
      createPod(foldersOf(pod), { name, network: flags.network, ports: (flags.publish ?? []).flatMap((text) => parsePublish(text)), sharePid: flags.sharePid ?? false, ending: flags.ending });
      process.stdout.write(`${name}\n`);
    });
}

function defineRun(pod: Command): void {
  const command = pod.command("run").description("run a container in a pod").exitOverride().argument("<pod>", "name of the pod");
  defineRunOptions(command)
    .option("-d, --detach", "leave the container running and print its id")
    .option("--detach-keys <keys>", "keys that leave a terminal; default: ctrl-p,ctrl-q")
    .option("--no-sig-proxy", "do not pass signals on to the container")
    .action((name: string, image: string, args: readonly string[], flags: RunCommandFlags) => runInPod(new PodStore(foldersOf(pod)).find(name), image, args, flags, pod));
}

function definePs(pod: Command): void {
  pod.command("ps").description("list pods").exitOverride()
    .option("-q, --quiet", "names alone")
    .addOption(new Option("--format <format>", "\"json\": one object a line").choices(["json", "table"]))
    .action((flags: { readonly quiet?: boolean; readonly format?: string }) => {
      const folders = foldersOf(pod);
      const pods = new PodStore(folders).list();
      if (flags.quiet === true) process.stdout.write(pods.map(({ name }) => `${name}\n`).join(""));
      else if (flags.format === "json") process.stdout.write(formatJsonLines(pods.map((record) => describe(folders, record))));
      else process.stdout.write(formatTable(["POD", "STATUS", "CREATED", "CONTAINERS", "PORTS"], pods.map((record) => toRow(folders, record))));
    });
}

function describe(folders: StateFolders, pod: PodRecord): { readonly Name: string; readonly Status: string; readonly CreatedAt: string; readonly Sandbox: string; readonly Containers: readonly { readonly Name: string; readonly Status: string }[]; readonly Ports: string } {
  const store = new ContainerStore(folders);
  const statuses = podContainers(folders, pod).map((record) => ({ record, status: readPresentStatus(store, record) }));
  const ports = statuses.find(({ status }) => status.status === "running")?.status.ports ?? [];
  return {
    Name: pod.name,
    Status: podRuns(folders, pod) ? "running" : "stopped",
    CreatedAt: formatTime(pod.createdAtUnixMs),
    Sandbox: pod.sandboxId,
    Containers: statuses.map(({ record, status }) => ({ Name: record.name, Status: status.status })),
    Ports: ports.map(formatPublished).join(", "),
  };
}

function toRow(folders: StateFolders, pod: PodRecord): string[] {
  const { Name, Status, Containers, Ports } = describe(folders, pod);
  return [Name, Status, formatAgo(pod.createdAtUnixMs), Containers.map((container) => `${container.Name} (${container.Status})`).join(", "), Ports];
}
