import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { runProcess } from "../../../shared/linux/run-process.ts";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { storageError } from "../../store/storage-error.ts";
import type { ImageStore, StoredImage } from "./image-store.ts";
import { encodeHeader, tarEnd, tarPadding } from "./tar-writer.ts";

export const busyboxImageName = "localhost/busybox:latest";
const candidates = ["/usr/bin/busybox", "/bin/busybox"];
/** Nothing else in the image depends on the machine or the day. */
const created = "1970-01-01T00:00:00Z";

/**
 * The embedded default image, from Debian's busybox-static: no registry is needed. Made once for one
 * busybox; without network or root.
 */
export async function ensureBusyboxImage(store: ImageStore): Promise<StoredImage> {
  const program = candidates.find((path) => existsSync(path));
  if (program === undefined) throw new RuntimeError("not_found", "busybox is not installed", { reason: "tool_missing", hint: "apt-get install --no-install-recommends busybox-static" });
  const stored = store.find(busyboxImageName);
  const { size, mtimeMs } = statSync(program);
  const made = `${size} ${mtimeMs}`;
  if (stored !== undefined && (await store.open(stored)).config.labels["casemate.busybox"] === made) return stored;
  const applets = (await runProcess(program, ["--list"])).stdout.toString().split("\n").filter((name) => name !== "" && name !== "busybox");
  const layer = busyboxLayer(readFileSync(program), applets);
  const making = store.withTemporaryFolder("busybox", {}, async (folder) => {
    const write = (bytes: Buffer): { readonly digest: string; readonly size: number } => {
      const hex = createHash("sha256").update(bytes).digest("hex");
      mkdirSync(join(folder, "sha256"), { recursive: true });
      writeFileSync(join(folder, "sha256", hex), bytes);
      return { digest: `sha256:${hex}`, size: bytes.length };
    };
    const layerBlob = write(layer);
    const config = write(Buffer.from(JSON.stringify({
      architecture: process.arch === "arm64" ? "arm64" : "amd64",
      os: "linux",
      created,
      config: { Cmd: ["sh"], Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], Labels: { "casemate.busybox": made } },
      rootfs: { type: "layers", diff_ids: [layerBlob.digest] },
    })));
    const manifest = write(Buffer.from(JSON.stringify({
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: { mediaType: "application/vnd.oci.image.config.v1+json", ...config },
      layers: [{ mediaType: "application/vnd.oci.image.layer.v1.tar", ...layerBlob }],
    })));
    return store.add(busyboxImageName, manifest.digest, folder);
  });
  return making.catch((error: unknown) => { throw storageError(error, `make image "${busyboxImageName}"`); });
}

const folders: readonly (readonly [string, number])[] = [
  ["bin", 0o755], ["dev", 0o755], ["etc", 0o755], ["home", 0o755], ["lib", 0o755], ["proc", 0o755], ["root", 0o700], ["run", 0o755], ["sys", 0o755],
  ["tmp", 0o1777], ["usr", 0o755], ["usr/bin", 0o755], ["usr/sbin", 0o755], ["sbin", 0o755], ["var", 0o755], ["var/spool", 0o755], ["var/spool/mail", 0o755], ["var/www", 0o755],
];
const files: Readonly<Record<string, string>> = {
  "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nbin:x:2:2:bin:/bin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
  "etc/group": "root:x:0:\ndaemon:x:1:\nbin:x:2:\ntty:x:5:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n",
  "etc/nsswitch.conf": "hosts: files dns\n",
};

/** The one layer: busybox under all its names, and the files a system has. */
function busyboxLayer(busybox: Buffer, applets: readonly string[]): Buffer {
  const file = (path: string, mode: number, content: Buffer): Buffer[] => [encodeHeader({ path, mode, type: "file", sizeBytes: content.length }), content, tarPadding(content.length)];
  return Buffer.concat([
    ...folders.map(([path, mode]) => encodeHeader({ path, mode, type: "folder" })),
    ...Object.entries(files).flatMap(([path, text]) => file(path, 0o644, Buffer.from(text))),
    ...file("bin/busybox", 0o755, busybox),
    ...applets.toSorted().map((name) => encodeHeader({ path: `bin/${name}`, mode: 0o755, type: "link", linkPath: "bin/busybox" })),
    tarEnd,
  ]);
}
