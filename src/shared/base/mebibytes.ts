/** Whole MiB of that many bytes, for messages. */
export function mebibytes(bytes: number): number {
  return Math.floor(bytes / (1024 * 1024));
}
