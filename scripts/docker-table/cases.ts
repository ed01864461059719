// Every row of the table in docs/docker.md, in the order in which they are run on both sides: later rows of a
// scene use what earlier ones have made.

/** `same`: both print and answer the same. `differs`: the same purpose, other words. `refused`: not here, and why. */
export type Verdict = "same" | "differs" | "refused";

/** One command, as people write it after `docker`. */
export interface Case {
  readonly command: readonly string[];
  readonly verdict: Verdict;
  /** For the reader: what differs, or what to use instead. */
  readonly note?: string;
  /** What is compared beside the exit code: all of stdout (default), its lines in any order, the keys of its JSON, or nothing. */
  readonly compare?: "text" | "lines" | "keys" | "nothing";
  readonly input?: string;
}

const same = (command: readonly string[], options: Pick<Case, "compare" | "input" | "note"> = {}): Case => ({ command, verdict: "same", ...options });
const differs = (command: readonly string[], note: string, options: Pick<Case, "compare" | "input"> = {}): Case => ({ command, verdict: "differs", note, ...options });
const refused = (command: readonly string[], note: string): Case => ({ command, verdict: "refused", note });

/** Files the cases name, below the folder that stands for FILES in them. */
export const files: Readonly<Record<string, string>> = { "folder/note": "a note\n", "env": "# comment\nA=from a file\n", "labels": "made=by a file\n" };

/** The image of the cases: Debian's busybox, the same on both sides. */
export const image = "table:1";
const run = (...options: readonly string[]): readonly string[] => ["run", "--rm", ...options];

/** Rows that need no other. */
const alone = (...rows: readonly Case[]): Case[][] => rows.map((row) => [row]);

/** Rows that are run one after the other. None needs what another scene has made. */
export const scenes: readonly (readonly Case[])[] = [
  ...alone(
    same(run(image, "echo", "hello")),
    same(run(image, "sh", "-c", "echo out; echo err >&2; exit 7")),
    same(run(image, "nowhere")),
    same(run(image, "/etc")),
    same(run("-i", image, "wc", "-c"), { input: "four" }),
    same(run("-e", "A=1", "--hostname", "box", image, "env"), { compare: "lines" }),
    same(run("--env-file", "FILES/env", image, "sh", "-c", "echo $A")),
    same(run("-w", "/not/there/yet", image, "pwd")),
    same(run("-u", "1000:100", image, "id")),
    same(run("-u", "nobody", image, "nowhere-either")),
    same(run("--entrypoint", "echo", image, "hi")),
    same(run("--hostname", "box", image, "hostname")),
    same(run("--read-only", image, "touch", "/x")),
    same(run("--tmpfs", "/t:size=1m", image, "df", "-k", "/t")),
    same(run("-v", "FILES/folder:/d:ro", image, "cat", "/d/note")),
    same(run("-v", "FILES/folder:/d:ro", image, "touch", "/d/x")),
    same(run("--mount", "type=bind,source=FILES/folder,target=/d", image, "ls", "/d")),
    same(run("--ulimit", "nofile=100:200", image, "sh", "-c", "ulimit -n; ulimit -Hn")),
    same(run("--cap-drop", "ALL", image, "grep", "Cap[EB]", "/proc/self/status")),
    same(run("--cap-add", "NET_ADMIN", "--cap-drop", "MKNOD", image, "grep", "CapEff", "/proc/self/status")),
    same(run("--security-opt", "no-new-privileges", image, "grep", "NoNewPrivs", "/proc/self/status")),
    same(run("--init", image, "sh", "-c", "exit 3")),
    same(run("--add-host", "db:10.1.2.3", image, "grep", "db", "/etc/hosts")),
    same(run("--dns", "9.9.9.9", image, "grep", "nameserver", "/etc/resolv.conf")),
    same(run("--dns-search", "example.org", image, "grep", "search", "/etc/resolv.conf")),
    same(run("--shm-size", "1m", image, "df", "-k", "/dev/shm")),
    same(run("--sysctl", "kernel.msgmax=1234", image, "cat", "/proc/sys/kernel/msgmax")),
    same(run("--net", "none", image, "ls", "/sys/class/net"), { compare: "lines" }),
    same(run("--group-add", "77", image, "id", "-G")),
    same(run("-m", "64m", "--cpus", "0.5", "--pids-limit", "50", image, "true")),
    same(run("--nowhere", image)),
  ),
  [
    same(["create", "--name", "made", "--label-file", "FILES/labels", "--pids-limit", "9", "--ulimit", "nofile=1024:2048", "--add-host", "db:10.1.2.3", "--dns", "9.9.9.9", image, "echo", "started"]),
    same(["inspect", "--format", "{{json .HostConfig.PidsLimit}} {{json .HostConfig.Ulimits}} {{json .HostConfig.ExtraHosts}} {{json .HostConfig.Dns}} {{json .HostConfig.CapAdd}} {{.HostConfig.ShmSize}} {{.HostConfig.CpuShares}}", "made"]),
    same(["inspect", "--format", "{{.State.Status}} {{index .Config.Labels \"made\"}}", "made"]),
    same(["start", "-a", "made"]),
    same(["wait", "made"]),
    same(["logs", "made"]),
    same(["logs", "--tail", "1", "-f", "made"]),
    same(["logs", "--since", "1h", "made"]),
    same(["logs", "--until", "1h", "made"]),
    same(["ps", "-q", "--filter", "exited=0"]),
    same(["ps", "-aq", "--filter", "exited=0"]),
    same(["ps", "-a", "--filter", "name=^made$", "--format", "{{.Names}}"]),
    same(["ps", "-a", "--filter", "name=^mad$", "--format", "{{.Names}}"]),
    same(["ps", "-a", "--filter", "status=exited", "--format", "{{.Names}}"]),
    same(["ps", "-a", "--filter", "label=made", "--no-trunc", "--format", "{{.Command}} {{.Image}}"]),
    same(["ps", "-as", "--format", "{{.Names}} {{.Size}}"], { note: "with the file system's own metadata, once it has been started" }),
    same(["container", "prune", "-f", "--filter", "until=1h"]),
    same(["container", "prune", "-f", "--filter", "label!=made"]),
    same(["rm", "-v", "made"]),
  ],
  [
    same(["run", "-d", "--name", "web", image, "sleep", "1000"]),
    same(["run", "--name", "web", image]),
    same(["ps", "-q"]),
    same(["ps", "--format", "{{.Names}} {{.Image}} {{.State}}"]),
    same(["ps", "--format", "{{json .}}"], { compare: "keys" }),
    same(["ps", "--format", "table {{.Names}}\t{{.State}}"]),
    same(["ps", "--format", "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Names}}"]),
    same(["ps", "--no-trunc", "--format", "{{.ID}} {{.Command}}"]),
    same(["exec", "web", "echo", "hi"]),
    same(["exec", "-i", "web", "cat"], { input: "in\n" }),
    same(["exec", "-e", "A=1", "-w", "/tmp", "-u", "1000", "web", "sh", "-c", "echo $A; pwd; id -u"]),
    same(["exec", "web", "sh", "-c", "exit 5"]),
    same(["exec", "-d", "web", "touch", "/made"]),
    differs(["exec", "web", "nowhere"], "127 as a shell has it; docker 20.10 prints the reason on stdout and ends with 126", { compare: "nothing" }),
    same(["exec", "web", "ls", "/made"]),
    same(["cp", "FILES/folder", "web:/copied"]),
    same(["exec", "web", "cat", "/copied/note"]),
    same(["cp", "web:/copied/note", "FILES/back"]),
    differs(["cp", "web:/nowhere", "FILES/back"], "125, as for all failures of casemate itself; docker: 1", { compare: "nothing" }),
    differs(["cp", "web:/copied", "-"], "the same tree; times and the order of entries may differ", { compare: "nothing" }),
    same(["rename", "web", "site"]),
    same(["inspect", "--format", "{{.Name}} {{.Path}} {{.Config.Image}}", "site"]),
    same(["inspect", "nobody"]),
    differs(["inspect", "site"], "docker's fields as far as they mean something, and a `Sandbox` object with the VM's", { compare: "nothing" }),
    same(["port", "site"]),
    same(["pause", "site"]),
    same(["ps", "--filter", "status=paused", "--format", "{{.Names}}"]),
    same(["unpause", "site"]),
    differs(["top", "site"], "shows the processes as the guest sees them, without the host's columns", { compare: "nothing" }),
    differs(["top", "site", "-o", "pid,user,args"], "the columns of the guest's ps; `-ef` and `aux` are taken, other options of ps are refused", { compare: "nothing" }),
    differs(["stats", "--no-stream", "--format", "{{json .}}", "site"], "docker's fields, and a line for what the sandbox itself costs", { compare: "nothing" }),
    same(["update", "--memory", "128m", "--memory-swap", "256m", "site"]),
    same(["kill", "-s", "USR1", "site"], { note: "docker's wording: the name" }),
    same(["restart", "-t", "1", "site"]),
    same(["stop", "-t", "1", "site"]),
    same(["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "site"]),
    same(["start", "site"]),
    same(["kill", "site"]),
    same(["rm", "site"]),
  ],
  ...alone(
    same(["rm", "nobody"]),
    same(["rm", "-f", "nobody"], { compare: "nothing" }),
    same(["stop", "nobody"]),
  ),
  [
    same(["run", "-d", "--name", "again", "--restart", "on-failure:2", image, "sleep", "1000"]),
    same(["inspect", "--format", "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} {{.RestartCount}}", "again"]),
    same(["update", "--restart", "always", "again"]),
    same(["inspect", "--format", "{{json .HostConfig.RestartPolicy}} {{.State.Restarting}}", "again"]),
    same(["rm", "-f", "again"]),
  ],
  ...alone(
    same(run("--restart", "always", image), { note: "`--rm` and `--restart` exclude each other" }),
    same(["run", "--restart", "sometimes", image]),
  ),
  [
    same(["run", "-d", "--name", "well", "--health-cmd", "true", "--health-interval", "1h", image, "sleep", "1000"]),
    same(["inspect", "--format", "{{.State.Health.Status}} {{.State.Health.FailingStreak}} {{json .Config.Healthcheck.Test}}", "well"]),
    same(["ps", "--filter", "health=starting", "--format", "{{.Names}}"]),
    same(["rm", "-f", "well"]),
  ],
  ...alone(
    same(["run", "--no-healthcheck", "--health-cmd", "true", image]),
    same(["images", "--format", "{{.Repository}}:{{.Tag}}"]),
    same(["images", "-aq"]),
    same(["images", "-q"], { note: "the image's id is the digest of its configuration on both sides" }),
    same(["images", "--format", "{{json .}}"], { compare: "keys" }),
    same(["images", "--format", "table {{.Repository}}\t{{.Tag}}\t{{.ID}}"]),
    same(["image", "list", "--format", "{{.Tag}}"]),
    same(["image", "ls", "--format", "{{.Repository}}"]),
    same(["image", "inspect", "--format", "{{.Os}} {{.Architecture}} {{json .RepoTags}}", image]),
    same(["image", "inspect", "nobody"]),
    same(["inspect", "--format", "{{.Os}} {{json .RepoTags}}", image]),
    same(["inspect", "--type", "image", "--format", "{{json .Config.Cmd}} {{json .Config.Entrypoint}} {{json .Config.User}}", image]),
    same(["inspect", "--type", "container", image]),
  ),
  [
    same(["tag", image, "table:2"]),
    same(["save", "-o", "FILES/saved.tar", "table:2"]),
    same(["rmi", "table:2"]),
    same(["load", "-q", "-i", "FILES/saved.tar"]),
    same(["tag", image, "table:3"]),
    same(["save", "-o", "FILES/saved.tar", "table:2", "table:3"], { note: "also of different images; a file that is there is written over" }),
    same(["rmi", "table:2", "table:3"], { compare: "nothing" }),
    same(["load", "-i", "FILES/saved.tar"], { compare: "lines" }),
  ],
  ...alone(
    same(["container", "ls", "-aq"]),
    same(["container", "prune", "-f"]),
    same(["image", "prune", "-f"]),
    same(["image", "prune", "-f", "--filter", "until=1h", "--filter", "label=none"]),
    differs(["system", "prune", "-f"], "docker also removes networks and its build cache, and says so", { compare: "nothing" }),
    differs(["pull", "localhost:1/nothing"], "125, as for all failures of casemate itself; docker: 1", { compare: "nothing" }),
    differs(["-v"], "casemate's own version", { compare: "nothing" }),
    differs(["version"], "casemate's own versions; there is no server", { compare: "nothing" }),
    differs(["--help"], "its own commands, in its own words", { compare: "nothing" }),
    refused(["build", "."], "build with podman build, then casemate pull containers-storage:NAME"),
    refused(["push", image], "push with podman or skopeo"),
    refused(["commit", "web"], "podman build, or casemate snapshot"),
    refused(["diff", "web"], "casemate exec, casemate cp"),
    refused(["export", "web"], "casemate cp web:/ -"),
    refused(["history", image], "casemate image inspect, skopeo inspect --config"),
    refused(["import", "FILES/saved.tar"], "podman build with ADD"),
    refused(["info"], "casemate check, casemate version"),
    refused(["system", "df"], "casemate images, ps -as, template ls"),
    refused(["compose", "up"], "casemate pod, casemate run"),
    refused(["volume", "ls"], "volumes are folders: -v NAME:/path"),
    refused(["network", "ls"], "there are no named networks: publish ports with -p"),
    refused(["run", "--network", "host", image], "a VM has no part in the host's network: publish ports with -p"),
    refused(["run", "--expose", "80", image], "publish it with -p"),
    refused(["run", "--link", "web", image], "containers in different VMs do not share a network: publish a port"),
    refused(["run", "--pid", "host", image], "the host's processes cannot be seen from inside a VM"),
    refused(["run", "--ipc", "host", image], "the host's IPC cannot be shared with a VM"),
    refused(["run", "--device", "/dev/null", image], "host devices cannot be given to a VM yet"),
    refused(["run", "--gpus", "all", image], "host devices cannot be given to a VM yet"),
    refused(["run", "--cgroup-parent", "x", image], "the container's cgroup is in the guest"),
    refused(["run", "--volumes-from", "web", image], "name the volumes with -v"),
    refused(["run", "--security-opt", "seccomp=profile.json", image], "the VM is the boundary"),
    refused(["run", "--sysctl", "net.core.somaxconn=1", image], "the network is the guest's: casemate exec --vm"),
    refused(["run", "--platform", "linux/s390x", image], "only this machine's kind of CPU can run"),
  ),
];

/** All of them in their order. */
export const cases: readonly Case[] = scenes.flat();
