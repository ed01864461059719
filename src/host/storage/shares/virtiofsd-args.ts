/** The two programs of that name: QEMU's (C, up to QEMU 7.2) and its successor (Rust). */
export interface VirtiofsdProgram {
  readonly path: string;
  readonly flavour: "c" | "rust";
}

/** Where distributions put it; the newer one is preferred. */
export const virtiofsdCandidates: readonly VirtiofsdProgram[] = [
  { path: "/usr/libexec/virtiofsd", flavour: "rust" },
  { path: "/usr/lib/virtiofsd", flavour: "rust" },
  { path: "/usr/lib/qemu/virtiofsd", flavour: "c" },
];

/** Requests served at once; more threads than this only contend for the host's page cache. */
const threadPoolSize = 4;

/**
 * virtiofsd's arguments. It confines itself: namespaces of its own with the folder as the root, a
 * seccomp filter, and no capability but those that change owners and modes.
 */
export function virtiofsdArgs({ flavour }: VirtiofsdProgram, socketFd: number, folder: string): string[] {
  if (flavour === "rust") {
    return [
      `--fd=${socketFd}`, `--shared-dir=${folder}`, "--sandbox=namespace", "--cache=auto", "--xattr",
      `--thread-pool-size=${threadPoolSize}`, "--modcaps=-mknod", "--log-level=error",
    ];
  }
  const options = [
    `source=${escapeOption(folder)}`, "sandbox=namespace", "log_level=err",
    // cache=none refuses shared mappings (SQLite, linkers). With auto and no time in which names and
    // attributes are trusted, a file replaced on the host is seen at the next look.
    "cache=auto", "timeout=0",
    "xattr", "no_posix_lock", "no_flock",
    // Each volume is a file system of its own in the guest: inode numbers of two volumes may be equal.
    "announce_submounts",
    // A device node made by a guest's root would be real on the host.
    "modcaps=-mknod",
  ];
  return ["-f", `--fd=${socketFd}`, `--thread-pool-size=${threadPoolSize}`, ...options.flatMap((option) => ["-o", option])];
}

/** libfuse's option parser splits at commas and takes a backslash for the character behind it. */
function escapeOption(text: string): string {
  return text.replace(/[\\,]/g, "\\$&");
}
