const mebibyte = 1024 * 1024;

/** Boot memory that the guest's kernel keeps from the start and does not count as its total: its image, page structs of boot memory, the firmware's part. 107 MiB of 1 GiB; in whole steps of plugging. */
const uncountedBytes = 128 * mebibyte;
/**
 * What containers must leave of the memory that the guest's kernel counts, beside its page structs: 64 MiB of the agent,
 * 50 MiB of files of the root image that are in use, 25 MiB of the kernel, 16 MiB that the kernel keeps free, and some room.
 * It has to be enough. When the guest as a whole has none left, the kernel takes away pages of programs; squashfs
 * reads them again with GFP_NOIO, with which the kernel neither fails nor ends a process, and stands still.
 */
const reserveBytes = 176 * mebibyte;
/** A page of 4 KiB has a struct of 64 bytes, which is in plugged memory itself. */
const bytesPerStructByte = 64;

/** What all containers together may use in a guest whose kernel counts `totalBytes`; may be negative. */
export function leftForContainers(totalBytes: number): number {
  return totalBytes - reserveBytes - totalBytes / bytesPerStructByte;
}

/** The memory of a VM whose containers together may use `bytes`: {@link leftForContainers} of what its kernel counts. */
export function memoryFor(bytes: number): number {
  return uncountedBytes + (bytes + reserveBytes) * bytesPerStructByte / (bytesPerStructByte - 1);
}
