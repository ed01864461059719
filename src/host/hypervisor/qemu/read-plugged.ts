import type { WaitOptions } from "../../../shared/base/deadline.ts";
import type { QmpClient } from "../qmp/qmp-client.ts";
import { agentPortIds } from "./arguments.ts";
import type { DiskSpec, PluggedVcpu } from "../virtual-machine.ts";

/** A device that was plugged into a running QEMU, as QEMU tells it. */
export interface FoundDevice {
  readonly id: string;
  /** Number of the root port it is on; undefined for a disk. */
  readonly port: number | undefined;
  /** Undefined for what is no disk. */
  readonly lun: number | undefined;
  /** Of a disk. */
  readonly disk?: Pick<DiskSpec, "format" | "readOnly">;
  /** Of a NIC. */
  readonly macAddress?: string;
  /** Of a share. */
  readonly tag?: string;
  /** True for a virtio-serial port. */
  readonly isPort: boolean;
  /** The command that takes its back end out. */
  readonly backend: { readonly command: string; readonly arguments: Readonly<Record<string, unknown>> };
}

/** What is plugged, and what an unfinished plug or unplug has left. */
export interface FoundInQemu {
  readonly plugged: readonly FoundDevice[];
  readonly vcpus: readonly PluggedVcpu[];
  readonly leftNodes: readonly string[];
  readonly leftChardevs: readonly string[];
  readonly fdSets: readonly number[];
}

/** The property that tells what a restored VM needs to know of a device, by the model. */
const properties: Readonly<Record<string, { readonly name: "macAddress" | "tag"; readonly property: string }>> = {
  "virtio-net-pci": { name: "macAddress", property: "mac" },
  "vhost-user-fs-pci": { name: "tag", property: "tag" },
};

const portModel = "virtserialport";
const nodePrefix = "node-", chardevPrefix = "chardev-";

const chardevOf = (id: string): FoundDevice["backend"] => ({ command: "chardev-remove", arguments: { id: `${chardevPrefix}${id}` } });

/** The device models that are plugged at run time, and their back ends by the device's id. */
const backends: Readonly<Record<string, (id: string) => FoundDevice["backend"]>> = {
  "scsi-hd": (id) => ({ command: "blockdev-del", arguments: { "node-name": `${nodePrefix}${id}` } }),
  "virtio-net-pci": (id) => ({ command: "netdev_del", arguments: { id: `netdev-${id}` } }),
  "vhost-user-fs-pci": chardevOf,
  [portModel]: chardevOf,
};

/** Asks QEMU what is plugged. Names are those that hot-plug.ts gives. */
export async function readPlugged(qmp: QmpClient, options: WaitOptions): Promise<FoundInQemu> {
  // The types are those of QEMU's schema.
  const children = await qmp.execute("qom-list", { path: "/machine/peripheral" }, options) as { readonly name: string; readonly type: string }[];
  const nodes = await qmp.execute("query-named-block-nodes", { flat: true }, options) as { readonly "node-name"?: string; readonly drv: string; readonly ro: boolean }[];
  const plugged: FoundDevice[] = [];
  for (const { name: id, type } of children) {
    const model = /^child<(.*)>$/.exec(type)?.[1] ?? "";
    const backend = backends[model]?.(id);
    if (backend === undefined || agentPortIds.some((port) => port === id)) continue; // the agent's are there from the start
    const read = (property: string): Promise<unknown> => qmp.execute("qom-get", { path: `/machine/peripheral/${id}`, property }, options);
    const lun = model === "scsi-hd" ? Number(await read("lun")) : undefined;
    const port = model === "scsi-hd" ? undefined : portOf(String(await read("parent_bus")));
    const node = nodes.find((candidate) => candidate["node-name"] === `${nodePrefix}${id}`);
    const fact = properties[model];
    plugged.push({
      id, lun, port, backend, isPort: model === portModel,
      ...(node !== undefined && lun !== undefined && { disk: { format: node.drv === "qcow2" ? "qcow2" : "raw", readOnly: node.ro } }),
      ...(fact !== undefined && { [fact.name]: String(await read(fact.property)) }),
    });
  }
  const cpus = await qmp.execute("query-hotpluggable-cpus", {}, options) as { readonly type: string; readonly props: Readonly<Record<string, unknown>>; readonly "qom-path"?: string }[];
  const chardevs = await qmp.execute("query-chardev", {}, options) as { readonly label: string }[];
  const fdSets = await qmp.execute("query-fdsets", {}, options) as { readonly "fdset-id": number }[];
  const isPlugged = (id: string): boolean => plugged.some((device) => device.id === id);
  return {
    plugged,
    // The first vCPU has no name: it is there from the start.
    vcpus: cpus.flatMap(({ type, props, "qom-path": path }) => {
      const id = /^\/machine\/peripheral\/(.+)$/.exec(path ?? "")?.[1];
      return id === undefined ? [] : [{ driver: type, id, ...props }];
    }),
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
