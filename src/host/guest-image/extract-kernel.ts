import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { RuntimeError } from "../../shared/base/errors.ts";
import { runProcess } from "../../shared/linux/run-process.ts";

const elfMagic = Buffer.from([0x7f, 0x45, 0x4c, 0x46]);
/** A kernel is some 60 MB unpacked. */
const maxKernelBytes = 512 * 1024 * 1024;

/** How a bzImage's payload may be packed, by the bytes it begins with. */
const formats: readonly { readonly magic: Buffer; readonly unpack: (bytes: Buffer) => Promise<Buffer> }[] = [
  // Bytes follow the stream, which xz calls an error after it has written everything.
  { magic: Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]), unpack: async (bytes) => (await runProcess("xz", ["-dcq", "--single-stream"], { input: bytes, okExitCodes: [0, 1, 2], maxOutputBytes: maxKernelBytes })).stdout },
  { magic: Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), unpack: async (bytes) => zstdDecompressSync(bytes) },
  { magic: Buffer.from([0x1f, 0x8b, 0x08]), unpack: async (bytes) => gunzipSync(bytes) },
];

/**
 * The uncompressed ELF inside a packaged kernel image, which QEMU boots by PVH: under emulation
 * unpacking in the guest costs seconds. An image that is an ELF already is returned as it is.
 * @throws RuntimeError `data_loss` (reason `kernel_corrupt`).
 */
export async function extractKernel(image: Buffer, name: string): Promise<Buffer> {
  if (image.subarray(0, 4).equals(elfMagic)) return image;
  for (const { magic, unpack } of formats) {
    for (let at = image.indexOf(magic); at !== -1; at = image.indexOf(magic, at + 1)) {
      const kernel = await unpack(image.subarray(at)).catch(() => undefined); // the magic may stand anywhere by chance: the next place is tried
      if (kernel?.subarray(0, 4).equals(elfMagic) === true) return kernel;
    }
  }
  throw new RuntimeError("data_loss", `kernel "${name}": holds no uncompressed kernel`, { reason: "kernel_corrupt", hint: "name another kernel, or remove the cached one so that it is fetched again" });
}
