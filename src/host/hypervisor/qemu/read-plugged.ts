import type { WaitOptions } from "../../../shared/base/deadline.ts";
import type { QmpClient } from "../qmp/qmp-client.ts";

/** A device that was plugged into a running QEMU, as QEMU tells it. */
export interface FoundDevice {
  readonly id: string;
  /** Number of the root port it is on; undefined for a disk. */
  readonly port: number | undefined;
  /** Undefined for what is no disk. */
  readonly lun: number | undefined;
  /** The command that takes its back end out. */
  readonly backend: { readonly command: string; readonly arguments: Readonly<Record<string, unknown>> };
}

/** What is plugged, and what an unfinished plug or unplug has left. */
export interface FoundInQemu {
  readonly plugged: readonly FoundDevice[];
  readonly leftNodes: readonly string[];
  readonly leftChardevs: readonly string[];
  readonly fdSets: readonly number[];
}

const nodePrefix = "node-", chardevPrefix = "chardev-";

/** The device models that are plugged at run time, and their back ends by the device's id. */
const backends: Readonly<Record<string, (id: string) => FoundDevice["backend"]>> = {
  "scsi-hd": (id) => ({ command: "blockdev-del", arguments: { "node-name": `${nodePrefix}${id}` } }),
  "virtio-net-pci": (id) => ({ command: "netdev_del", arguments: { id: `netdev-${id}` } }),
  "vhost-user-fs-pci": (id) => ({ command: "chardev-remove", arguments: { id: `${chardevPrefix}${id}` } }),
};

/** Asks QEMU what is plugged. Names are those that hot-plug.ts gives. */
export async function readPlugged(qmp: QmpClient, options: WaitOptions): Promise<FoundInQemu> {
  // The types are those of QEMU's schema.
  const children = await qmp.execute("qom-list", { path: "/machine/peripheral" }, options) as { readonly name: string; readonly type: string }[];
  const plugged: FoundDevice[] = [];
  for (const { name: id, type } of children) {
    const model = /^child<(.*)>$/.exec(type)?.[1] ?? "";
    const backend = backends[model]?.(id);
    if (backend === undefined) continue;
    const read = (property: string): Promise<unknown> => qmp.execute("qom-get", { path: `/machine/peripheral/${id}`, property }, options);
    const lun = model === "scsi-hd" ? Number(await read("lun")) : undefined;
    const port = model === "scsi-hd" ? undefined : portOf(String(await read("parent_bus")));
    plugged.push({ id, lun, port, backend });
  }
  const nodes = await qmp.execute("query-named-block-nodes", { flat: true }, options) as { readonly "node-name"?: string }[];
  const chardevs = await qmp.execute("query-chardev", {}, options) as { readonly label: string }[];
  const fdSets = await qmp.execute("query-fdsets", {}, options) as { readonly "fdset-id": number }[];
  const isPlugged = (id: string): boolean => plugged.some((device) => device.id === id);
  return {
    plugged,
    leftNodes: nodes.map((node) => node["node-name"] ?? "").filter((name) => name.startsWith(nodePrefix) && !isPlugged(name.slice(nodePrefix.length))),
    leftChardevs: chardevs.map(({ label }) => label).filter((label) => label.startsWith(chardevPrefix) && !isPlugged(label.slice(chardevPrefix.length))),
    fdSets: fdSets.map((set) => set["fdset-id"]),
  };
}

/** `/machine/peripheral/port2/port2`: the bus behind a root port. */
function portOf(busPath: string): number | undefined {
  const number = /\/port(\d+)$/.exec(busPath)?.[1];
  return number === undefined ? undefined : Number(number);
}
