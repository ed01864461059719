import type { BlobProgress } from "../../host/storage/images/blob-progress.ts";
import { formatSize } from "./size.ts";

/** What is copied in that time is the rate: skopeo tells of a large blob in steps of 100 MB. */
const rateWindowMs = 10_000;
const maxBarColumns = 40;
/** A shorter bar says nothing. */
const minBarColumns = 8;
const green = "\x1b[32m", plain = "\x1b[39m";

/** How to draw: the terminal's width, and whether it may have colours. */
export interface DrawOptions {
  readonly columns: number;
  readonly colours: boolean;
}

/** A bar for each blob of an image that is being copied. Times are of a clock that the caller chooses, in milliseconds. */
export class BlobBars {
  readonly #samples = new Map<string, (readonly [ms: number, bytes: number])[]>();
  #blobs: readonly BlobProgress[] = [];
  /** A blob that is new in an update has begun after the one before. */
  #updatedMs: number;

  constructor(nowMs: number) {
    this.#updatedMs = nowMs;
  }

  update(blobs: readonly BlobProgress[], nowMs: number): void {
    this.#blobs = blobs;
    for (const { id, doneBytes } of blobs) {
      const samples = this.#samples.get(id) ?? [[this.#updatedMs, 0]];
      if (samples.at(-1)?.[1] === doneBytes) continue;
      this.#samples.set(id, [...samples.filter(([ms], index) => ms > nowMs - rateWindowMs || index === samples.length - 1), [nowMs, doneBytes]]);
    }
    this.#updatedMs = nowMs;
  }

  /** All blobs in one: `46.2MB, 12.3MB/s, 2 of 3 blobs`; empty before the first. */
  summary(nowMs: number): string {
    const fetched = this.#blobs.filter(({ state }) => state !== "here");
    if (fetched.length === 0) return "";
    const doneBytes = fetched.reduce((sum, blob) => sum + blob.doneBytes, 0);
    const rate = fetched.reduce((sum, { id, state }) => sum + (state === "copying" ? this.#rate(id, nowMs) : 0), 0);
    const copied = fetched.filter(({ state }) => state === "copied").length;
    return `${formatSize(doneBytes)}, ${formatSize(Math.round(rate))}/s, ${copied} of ${fetched.length} blobs`;
  }

  /** A line for each blob under way. */
  lines(nowMs: number, options: DrawOptions): string[] {
    return this.#blobs.filter(({ state }) => state === "copying").map((blob) => this.#line(blob, nowMs, options));
  }

  #line({ id, doneBytes, totalBytes }: BlobProgress, nowMs: number, { columns, colours }: DrawOptions): string {
    const size = totalBytes === undefined ? formatSize(doneBytes) : `${formatSize(doneBytes)} / ${formatSize(totalBytes)}`;
    const left = `  ${id} `, right = ` ${size}  ${formatSize(Math.round(this.#rate(id, nowMs)))}/s`;
    const width = Math.min(maxBarColumns, columns - left.length - right.length - "[]".length - 1);
    if (totalBytes === undefined || width < minBarColumns) return `${left}${right}`.slice(0, columns - 1);
    const full = Math.min(width, Math.floor(width * doneBytes / Math.max(1, totalBytes)));
    const bar = "=".repeat(full);
    return `${left}[${colours ? `${green}${bar}${plain}` : bar}${" ".repeat(width - full)}]${right}`;
  }

  /** Bytes per second lately. */
  #rate(id: string, nowMs: number): number {
    const samples = this.#samples.get(id) ?? [];
    const [first, last] = [samples[0], samples.at(-1)];
    return first === undefined || last === undefined || nowMs <= first[0] ? 0 : (last[1] - first[1]) * 1_000 / (nowMs - first[0]);
  }
}
