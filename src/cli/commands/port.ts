import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";
import { requireRunning } from "../../host/containers/end-container.ts";
import { ContainerStore, type PublishedPort } from "../../host/store/container-store.ts";
import { readPresentStatus } from "../../host/store/present-status.ts";
import { foldersOf } from "../command.ts";

export function define(command: Command): void {
  command
    .argument("<container>", "name or id")
    .argument("[port[/protocol]]", "only this port of the container")
    .addHelpText("after", "\nExample:\n  casemate port web 80")
    .action((name: string, wanted: string | undefined) => {
      const folders = foldersOf(command);
      const store = new ContainerStore(folders);
      const record = store.find(name);
      requireRunning(folders, record, "show the ports of");
      const { ports } = readPresentStatus(store, record);
      if (wanted === undefined) {
        process.stdout.write(ports.map((port) => `${keyOf(port)} -> ${addressOf(port)}\n`).join(""));
        return;
      }
      const found = ports.filter((port) => keyOf(port) === (wanted.includes("/") ? wanted : `${wanted}/tcp`));
      if (found.length === 0) throw new RuntimeError("not_found", `no public port '${wanted}' published for ${name}`, { reason: "port_not_published", hint: "publish ports with -p when the container is made" });
      process.stdout.write(found.map((port) => `${addressOf(port)}\n`).join(""));
    });
}

function keyOf({ containerPort, protocol }: PublishedPort): string {
  return `${containerPort}/${protocol}`;
}

function addressOf({ hostAddress, hostPort }: PublishedPort): string {
  const host = hostAddress === "" ? "0.0.0.0" : hostAddress.includes(":") ? `[${hostAddress}]` : hostAddress;
  return `${host}:${hostPort}`;
}
