import { closeSync, existsSync, writeFileSync } from "node:fs";
import { call } from "../../shared/linux/libc.ts";

/** sysctls of the guest; containers share its network namespace. */
const sysctls: Readonly<Record<string, string>> = {
  // Only what is worse than a warning reaches the console, and user space only at a limited rate: the host reads it.
  "kernel/printk": "4 4 1 4",
  "kernel/printk_devkmsg": "ratelimit",
  // Ctrl-Alt-Del is a signal to PID 1 then, which takes no notice, instead of a reset.
  "kernel/ctrl-alt-del": "0",
  // docker sets these two in every container.
  "net/ipv4/ip_unprivileged_port_start": "0",
  "net/ipv4/ping_group_range": "0 2147483647",
  // An interface says its MAC address by ARP when it comes up. Until it has sent something passt knows none, and what
  // arrives at a published port goes to all, which TCP does not take; passt does not send it again.
  "net/ipv4/conf/all/arp_notify": "1",
  "fs/inotify/max_user_instances": "8192",
  "fs/inotify/max_user_watches": "1048576",
  // Databases and JVMs ask for more than the default 65530.
  "vm/max_map_count": "262144",
  // Nine tenths of what an idle guest costs its host (emulated: 2.4 ms of CPU a second with them, 0.2 without): looks
  // twice a second whether memory is in pieces, once a second at counters, and every four seconds whether a CPU hangs,
  // which one that stood still with its VM would seem to.
  "vm/compaction_proactiveness": "0",
  "vm/stat_interval": "10",
  "kernel/watchdog": "0",
};

const AF_INET = 2, SOCK_DGRAM = 2, SOCK_CLOEXEC = 0o2000000, SIOCSIFFLAGS = 0x8914, IFF_UP = 1;
const RLIMIT_NOFILE = 7;
/** What dockerd gives its containers, as the hard limit; a spec's rlimits win. */
const fileLimit = 1_048_576n;

export function setKernelSettings(): void {
  for (const [name, value] of Object.entries(sysctls)) {
    const file = `/proc/sys/${name}`;
    if (existsSync(file)) writeFileSync(file, `${value}\n`);
  }
  const limit = Buffer.alloc(16);
  limit.writeBigUInt64LE(fileLimit, 0);
  limit.writeBigUInt64LE(fileLimit, 8);
  call("int prlimit(int, int, void *, void *)", 0, RLIMIT_NOFILE, limit, null);
}

/** Brings the loopback interface up; the kernel gives it its addresses. */
export function startLoopback(): void {
  const socket = call("int socket(int, int, int)", AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  try {
    const request = Buffer.alloc(40); // struct ifreq: the name, then a union
    request.write("lo", 0, "latin1");
    request.writeUInt16LE(IFF_UP, 16);
    call("int ioctl(int, unsigned long, void *)", socket, SIOCSIFFLAGS, request);
  } finally {
    closeSync(socket);
  }
}
