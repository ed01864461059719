import { createHash, randomBytes } from "node:crypto";
import { chownSync, linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync, chmodSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { tarBytes } from "./memory-archive.ts";

/** Bytes of a layer: the archive, and as it is stored. */
export interface FixtureLayer {
  readonly archive: Buffer;
  readonly blob: Buffer;
  readonly mediaType: string;
}

const layerType = "application/vnd.oci.image.layer.v1.tar";

export const compress = {
  none: (archive: Buffer): FixtureLayer => ({ archive, blob: archive, mediaType: layerType }),
  gzip: (archive: Buffer): FixtureLayer => ({ archive, blob: gzipSync(archive), mediaType: `${layerType}+gzip` }),
  /** Of several frames, as zstd:chunked layers are. */
  zstd: (archive: Buffer): FixtureLayer => {
    const cut = Math.floor(archive.length / 2);
    return { archive, blob: Buffer.concat([zstdCompressSync(archive.subarray(0, cut)), zstdCompressSync(archive.subarray(cut))]), mediaType: `${layerType}+zstd` };
  },
};

/** Writes an image as an OCI layout with the tag "image". */
export function writeOciLayout(folder: string, layers: readonly FixtureLayer[], config: Readonly<Record<string, unknown>> = {}): void {
  mkdirSync(join(folder, "blobs/sha256"), { recursive: true });
  const write = (bytes: Buffer, mediaType: string): { readonly mediaType: string; readonly digest: string; readonly size: number } => {
    writeFileSync(join(folder, "blobs/sha256", sha256(bytes)), bytes);
    return { mediaType, digest: `sha256:${sha256(bytes)}`, size: bytes.length };
  };
  const configBlob = Buffer.from(JSON.stringify({
    architecture: process.arch === "arm64" ? "arm64" : "amd64", os: "linux", created: "2024-05-06T07:08:09Z", config,
    rootfs: { type: "layers", diff_ids: layers.map(({ archive }) => `sha256:${sha256(archive)}`) },
  }));
  const manifest = Buffer.from(JSON.stringify({
    schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: write(configBlob, "application/vnd.oci.image.config.v1+json"),
    layers: layers.map(({ blob, mediaType }) => write(blob, mediaType)),
  }));
  const reference = { ...write(manifest, "application/vnd.oci.image.manifest.v1+json"), annotations: { "org.opencontainers.image.ref.name": "image" } };
  writeFileSync(join(folder, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [reference] }));
  writeFileSync(join(folder, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
}

/** Writes an image as `docker save` does, in docker's own format. */
export function writeDockerArchive(path: string, name: string, layers: readonly Buffer[], config: Readonly<Record<string, unknown>>): void {
  const configBlob = Buffer.from(JSON.stringify({ architecture: process.arch === "arm64" ? "arm64" : "amd64", os: "linux", created: "2024-05-06T07:08:09Z", config, rootfs: { type: "layers", diff_ids: layers.map((layer) => `sha256:${sha256(layer)}`) } }));
  const files = layers.map((layer) => ({ path: `${sha256(layer)}.tar`, content: layer }));
  const manifest = [{ Config: `${sha256(configBlob)}.json`, RepoTags: [name], Layers: files.map((file) => file.path) }];
  const all = [...files, { path: `${sha256(configBlob)}.json`, content: configBlob }, { path: "manifest.json", content: JSON.stringify(manifest) }];
  writeFileSync(path, tarBytes(all.map(({ path: file, content }) => ({ path: file, type: "file", content }))));
}

/** Uploads an OCI layout's image, its manifest and layers as they are. */
export async function pushLayout(folder: string, reference: string): Promise<void> {
  await runProcess("skopeo", ["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", `oci:${folder}:image`, `docker://${reference}`], { timeoutMs: 120_000 });
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** A layer with one file that no compression makes smaller. */
export function randomLayer(path: string, sizeBytes: number): FixtureLayer {
  return compress.gzip(tarBytes([{ path, type: "file", content: randomBytes(sizeBytes) }]));
}

export const richConfig = {
  User: "app:users", WorkingDir: "/srv/app", Entrypoint: ["/usr/bin/entry", "--flag"], Cmd: ["one", "two words"], Env: ["PATH=/usr/bin:/bin", "EMPTY=", "LANG=C.UTF-8"],
  StopSignal: "SIGQUIT", ExposedPorts: { "80/tcp": {}, "53/udp": {} }, Volumes: { "/data": {} }, Labels: { "org.example.name": "rich", "with space": "a=b" },
};

/** Three layers with all that a layer can say: one by GNU tar from real files (needs root), two by hand. */
export async function richLayers(): Promise<FixtureLayer[]> {
  return [compress.gzip(await realTree()), compress.none(handMade()), compress.zstd(topLayer())];
}

const longName = `long/${"n".repeat(120)}/${"m".repeat(240)}`;

/** What real tools make of real files. */
async function realTree(): Promise<Buffer> {
  const root = mkdtempSync(join(tmpdir(), "cm-tree-"));
  const at = (path: string): string => join(root, path);
  const file = (path: string, content: string | Buffer, mode = 0o644): void => {
    writeFileSync(at(path), content);
    chmodSync(at(path), mode);
  };
  try {
    for (const path of ["dev", "etc", "bin", "srv/app", "links", "opaque/sub/deep", "gone/sub", "swap", "kept", longName.slice(0, longName.lastIndexOf("/"))]) mkdirSync(at(path), { recursive: true });
    file("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1234:100::/srv/app:/bin/sh\n");
    file("etc/group", "root:x:0:\nusers:x:100:\n");
    file("etc/empty", "");
    file("bin/setuid", "s", 0o4755);
    file("bin/setgid", "g", 0o2711);
    file("bin/capable", "c", 0o755);
    file("bin/attributes", "a", 0o600);
    file("etc/large", randomBytes(300_000));
    file("etc/zeros", Buffer.alloc(200_000));
    file(longName, "long");
    writeFileSync(Buffer.concat([Buffer.from(at("etc/n-")), Buffer.from([0xff, 0xfe, 0xe4])]), "not UTF-8");
    file("etc/line\nbreak", "newline");
    file("srv/app/owned", "o", 0o640);
    chownSync(at("srv/app/owned"), 1234, 100);
    chownSync(at("srv/app"), 1234, 100);
    file("srv/app/far", "f");
    chownSync(at("srv/app/far"), 3_000_000_000, 2_500_000);
    chmodSync(at("srv/app"), 0o3775);
    for (const [first, second] of [["whole", "whole-2"], ["replaced", "survivor"], ["hidden", "survivor-2"]] as const) {
      file(`links/${first}`, `${first} content`);
      linkSync(at(`links/${first}`), at(`links/${second}`));
    }
    linkSync(at("links/survivor-2"), at("links/survivor-3"));
    symlinkSync("../etc/passwd", at("links/relative"));
    symlinkSync("/".padEnd(180, "t"), at("links/long"));
    symlinkSync("/nowhere", at("links/dangling"));
    for (const path of ["opaque/old", "opaque/sub/old", "opaque/sub/deep/old", "gone/file", "gone/sub/file", "swap/folder", "kept/file", "kept/hidden"]) file(path, path);
    file("becomes-folder", "file first");
    await runProcess("mknod", ["-m", "666", at("dev/null"), "c", "1", "3"]);
    await runProcess("mknod", ["-m", "660", at("dev/block"), "b", "259", "70000"]);
    await runProcess("mkfifo", ["-m", "600", at("dev/fifo")]);
    await runProcess("setcap", ["cap_net_raw,cap_net_bind_service+ep", at("bin/capable")]);
    await runProcess("setfattr", ["-n", "user.text", "-v", "value with = and\nnewline", at("bin/attributes")]);
    await runProcess("setfattr", ["-n", "user.binary", "-v", "0x00ff0a3d00", at("bin/attributes")]);
    await runProcess("setfattr", ["-n", "user.folder", "-v", "yes", at("kept")]);
    utimesSync(at("etc/passwd"), 1_000_000_000, 1_000_000_000);
    utimesSync(at("etc/empty"), 4_000_000_000, 4_000_000_000);
    utimesSync(root, 1_234_567_890, 1_234_567_890);
    const { stdout } = await runProcess("tar", ["--format=posix", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=name", "-C", root, "-cf", "-", "."]);
    return stdout;
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

/** Changes what the first layer has; the opaque mark is the last of its folder, which is allowed. */
function handMade(): Buffer {
  return tarBytes([
    { path: "links", type: "folder", mode: 0o751, uid: 7 },
    { path: "links/replaced", type: "file", content: "new content", mode: 0o444 },
    { path: "links/.wh.hidden", type: "file" },
    { path: "opaque", type: "folder", mode: 0o700, mtimeSeconds: 5 },
    { path: "opaque/sub", type: "folder", mode: 0o711 },
    { path: "opaque/sub/new", type: "file", content: "new" },
    { path: "opaque/.wh..wh..opq", type: "file" },
    { path: ".wh.gone", type: "file" },
    { path: "swap", type: "file", content: "a file now" },
    { path: "becomes-folder", type: "folder", mode: 0o1777 },
    { path: "becomes-folder/in", type: "file", content: "in" },
    { path: "kept", type: "folder", mode: 0o750, gid: 33 },
    { path: "kept/.wh.hidden", type: "file" },
    { path: "usr", type: "folder" },
    { path: "usr/lib", type: "folder" },
    { path: "lib", type: "symlink", linkPath: "usr/lib" },
    { path: "lib/through", type: "file", content: "through a symbolic link" },
    { path: "absolute", type: "symlink", linkPath: "/usr/lib" },
    { path: "absolute/through", type: "file", content: "through another one" },
  ]);
}

/** Puts back some of what the second took away. */
function topLayer(): Buffer {
  return tarBytes([
    { path: "gone", type: "folder", mode: 0o755 },
    { path: "gone/again", type: "file", content: "again" },
    { path: "swap", type: "folder", mode: 0o700 },
    { path: "swap/outer", type: "file", content: "linked" },
    { path: "swap/inner", type: "link", linkPath: "swap/outer" },
  ]);
}
