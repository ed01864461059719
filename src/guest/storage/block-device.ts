import { closeSync, openSync, readFileSync, readdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { eventually } from "../../shared/base/deadline.ts";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { requireAbsolutePath } from "../paths.ts";

/** A plugged disk is seen after 0.1 to 0.3 s under emulation; a loaded host may take much longer. */
const deviceTimeoutMs = 15_000;
/** Without an event from the device by then the bus is scanned once: a disk plugged while the VM was being restored is not announced. */
const rescanAfterMs = 1_000;
const pollMs = 5;

/**
 * The device node of a SCSI disk, `TARGET:LUN` on channel 0 of any host, once it has appeared. With its
 * serial number, since the disk that was at this address before may not have been taken out here yet.
 */
export async function scsiDisk(address: string, serial?: string): Promise<string> {
  const match = /^(\d{1,5}):(\d{1,5})$/.exec(address);
  if (match === null) throw new RuntimeError("invalid_argument", `SCSI address "${address}": must be "TARGET:LUN"`);
  const pattern = new RegExp(`^\\d+:0:${Number(match[1])}:${Number(match[2])}$`);
  const startedMs = performance.now();
  let scanned = false;
  return eventually(`wait for SCSI disk "${address}"`, async () => {
    const found = names(scsiDevices).find((name) => pattern.test(name));
    const stale = found !== undefined && serial !== undefined && ![undefined, serial].includes(serialOf(found));
    const [disk] = found === undefined || stale ? [] : names(`${scsiDevices}/${found}/device/block`);
    if (disk !== undefined && opens(`/dev/${disk}`)) return `/dev/${disk}`;
    if (!scanned && performance.now() - startedMs > rescanAfterMs) {
      scanned = true;
      if (stale) await writeFile(`${scsiDevices}/${found}/device/delete`, "1");
      for (const host of names("/sys/class/scsi_host")) await writeFile(`/sys/class/scsi_host/${host}/scan`, `0 ${Number(match[1])} ${Number(match[2])}`);
    }
    return undefined;
  }, { timeoutMs: deviceTimeoutMs, intervalMs: pollMs });
}

const scsiDevices = "/sys/class/scsi_device";
/** Before the serial number on its page: type, page code and length (SPC-3, 7.6.10). */
const vpdHeaderBytes = 4;

/** The serial number a disk had when it was found; undefined for one that tells none. */
function serialOf(device: string): string | undefined {
  try {
    return readFileSync(`${scsiDevices}/${device}/device/vpd_pg80`, "latin1").slice(vpdHeaderBytes).replaceAll("\0", "").trim();
  } catch (error) {
    if (isErrnoException(error, "ENOENT") || isErrnoException(error, "EINVAL") || isErrnoException(error, "ENODEV")) return undefined;
    throw error;
  }
}

/** The device node of a disk given by `/dev/...`, or by its PCI path: slot numbers from the root bus down, `02/00`. */
export async function blockDevice(source: string): Promise<string> {
  if (source.startsWith("/dev/")) {
    const path = requireAbsolutePath(source, "block device");
    return eventually(`wait for block device "${path}"`, () => (opens(path) ? path : undefined), { timeoutMs: deviceTimeoutMs, intervalMs: pollMs });
  }
  if (!/^[0-9a-f]{2}(\/[0-9a-f]{2}){0,3}$/.test(source)) throw new RuntimeError("invalid_argument", `block device "${source}": must be a path below /dev or a PCI path such as "02/00"`);
  return eventually(`wait for PCI disk "${source}"`, () => pciDisk(source.split("/")), { timeoutMs: deviceTimeoutMs, intervalMs: pollMs });
}

/** Follows bridges: each slot is a device on the bus behind the one before. */
function pciDisk(slots: readonly string[]): string | undefined {
  let folder = "/sys/devices/pci0000:00";
  for (const slot of slots) {
    const device = names(folder).find((name) => new RegExp(`^[0-9a-f]{4}:[0-9a-f]{2}:${slot}\\.0$`).test(name));
    if (device === undefined) return undefined;
    folder = `${folder}/${device}`;
  }
  const virtio = names(folder).find((name) => /^virtio\d+$/.test(name));
  const [disk] = virtio === undefined ? [] : names(`${folder}/${virtio}/block`);
  return disk !== undefined && opens(`/dev/${disk}`) ? `/dev/${disk}` : undefined;
}

/** The kernel makes a disk's node some time before the disk behind it can be opened (device_add_disk: the node, the partitions, then the disk); until then it says ENXIO. */
function opens(path: string): boolean {
  try {
    closeSync(openSync(path, "r"));
    return true;
  } catch (error) {
    if (isErrnoException(error, "ENOENT") || isErrnoException(error, "ENXIO")) return false;
    throw error;
  }
}

function names(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (isErrnoException(error, "ENOENT") || isErrnoException(error, "ENOTDIR")) return [];
    throw error;
  }
}
