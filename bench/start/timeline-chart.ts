/** A step of a start, in milliseconds since the command began. */
export interface TimelineStep {
  readonly label: string;
  /** Who works meanwhile. */
  readonly where: "host" | "guest";
  readonly startMs: number;
  readonly durationMs: number;
}

/** One start, as a panel of the chart. */
export interface Timeline {
  readonly title: string;
  readonly totalMs: number;
  readonly steps: readonly TimelineStep[];
}

const width = 960, labelWidth = 310, right = 70, rowHeight = 18, titleHeight = 34, axisHeight = 26;
const colours = { host: "#3b6ea5", guest: "#d9822b" } as const;

/** Draws starts one below the other, on one scale: a row for each step, as long as it took. */
export function drawTimelines(timelines: readonly Timeline[]): string {
  const longestMs = Math.max(...timelines.map(({ totalMs }) => totalMs));
  const x = (ms: number): number => labelWidth + ms / longestMs * (width - labelWidth - right);
  const parts: string[] = [];
  let y = 12;
  for (const { title, totalMs, steps } of timelines) {
    parts.push(text(12, y + 14, `${title}: ${Math.round(totalMs)} ms`, "font-weight=\"bold\""));
    y += titleHeight - 10;
    for (const { label, where, startMs, durationMs } of steps) {
      const barWidth = Math.max(1, x(startMs + durationMs) - x(startMs));
      parts.push(
        text(labelWidth - 8, y + 13, label, "text-anchor=\"end\""),
        `<rect x="${x(startMs).toFixed(1)}" y="${y + 3}" width="${barWidth.toFixed(1)}" height="${rowHeight - 6}" fill="${colours[where]}"/>`,
        text(x(startMs) + barWidth + 4, y + 13, durationMs < 10 ? durationMs.toFixed(1) : String(Math.round(durationMs)), "fill=\"#555\""),
      );
      y += rowHeight;
    }
    for (let ms = 0; ms <= totalMs; ms += gridStep(longestMs)) parts.push(`<line x1="${x(ms).toFixed(1)}" y1="${y}" x2="${x(ms).toFixed(1)}" y2="${y + 4}" stroke="#888"/>`, text(x(ms), y + 16, String(ms), "text-anchor=\"middle\" fill=\"#555\""));
    parts.push(`<line x1="${labelWidth}" y1="${y}" x2="${x(totalMs).toFixed(1)}" y2="${y}" stroke="#888"/>`);
    y += axisHeight + 8;
  }
  parts.push(...(["host", "guest"] as const).flatMap((where, index) => [
    `<rect x="${12 + index * 200}" y="${y}" width="12" height="12" fill="${colours[where]}"/>`,
    text(30 + index * 200, y + 10, where === "host" ? "on the host" : "waiting for the guest"),
  ]));
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y + 24}" font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n${parts.join("\n")}\n</svg>\n`;
}

function gridStep(longestMs: number): number {
  return [10, 20, 50, 100, 200, 500].find((step) => longestMs / step <= 12) ?? 1000;
}

function text(x: number, y: number, content: string, attributes = ""): string {
  const escaped = content.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return `<text x="${x.toFixed(1)}" y="${y}" ${attributes}>${escaped}</text>`;
}
