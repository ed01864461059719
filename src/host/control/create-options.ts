import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { anyPack, type Any } from "@bufbuild/protobuf/wkt";
import { CreateOptionsSchema } from "../../shared/protocol/gen/owner_pb.ts";

/** Our options of the Task service's Create, as it carries them. */
export function packCreateOptions(options: MessageInitShape<typeof CreateOptionsSchema>): Any {
  return anyPack(CreateOptionsSchema, create(CreateOptionsSchema, options));
}
