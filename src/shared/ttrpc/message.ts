import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { maxCallParts, type CallPart } from "../base/call-parts.ts";
import { RuntimeError, codeOf, describeError, type ErrorCode } from "../base/errors.ts";

/** ttRPC's request message: which method, what, how long. */
export interface WireRequest {
  readonly service: string;
  readonly method: string;
  readonly payload: Uint8Array;
  /** 0: none. */
  readonly timeoutNanos: bigint;
  readonly metadata: readonly (readonly [string, string])[];
}

/** ttRPC's response message. */
export interface WireResponse {
  readonly error: RuntimeError | undefined;
  readonly payload: Uint8Array;
  /** Where the time of the call went; empty unless the request asked. An addition of ours, which others skip. */
  readonly parts: readonly CallPart[];
}

/** A request with it asks where the time of the call goes (w3.org/TR/trace-context). */
export const traceHeader = "traceparent";

const emptyBytes = new Uint8Array();

// Field numbers of ttRPC's request.proto; written by hand because every call passes here, also on an
// emulated CPU.
export function encodeRequest(request: WireRequest): Uint8Array {
  const writer = new BinaryWriter();
  writer.tag(1, WireType.LengthDelimited).string(request.service);
  writer.tag(2, WireType.LengthDelimited).string(request.method);
  if (request.payload.length > 0) writer.tag(3, WireType.LengthDelimited).bytes(request.payload);
  if (request.timeoutNanos > 0n) writer.tag(4, WireType.Varint).int64(request.timeoutNanos);
  for (const [key, value] of request.metadata) {
    writer.tag(5, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.LengthDelimited).string(key);
    writer.tag(2, WireType.LengthDelimited).string(value);
    writer.join();
  }
  return writer.finish();
}

export function decodeRequest(bytes: Uint8Array): WireRequest {
  const request = { service: "", method: "", payload: emptyBytes as Uint8Array, timeoutNanos: 0n, metadata: [] as [string, string][] };
  readFields(bytes, {
    1: (reader) => { request.service = reader.string(); },
    2: (reader) => { request.method = reader.string(); },
    3: (reader) => { request.payload = reader.bytes(); },
    4: (reader) => { request.timeoutNanos = BigInt(reader.int64()); },
    5: (reader) => {
      const pair: [string, string] = ["", ""];
      readFields(reader.bytes(), { 1: (inner) => { pair[0] = inner.string(); }, 2: (inner) => { pair[1] = inner.string(); } });
      request.metadata.push(pair);
    },
  });
  return request;
}

export function encodeResponse(error: unknown, payload: Uint8Array, parts: readonly CallPart[] = []): Uint8Array {
  const writer = new BinaryWriter();
  if (error !== undefined) {
    writer.tag(1, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.Varint).int32(statusNumbers[codeOf(error)]);
    writer.tag(2, WireType.LengthDelimited).string(describeError(error));
    if (RuntimeError.is(error) && (error.reason !== undefined || error.hint !== undefined)) encodeReason(writer, error);
    writer.join();
  }
  if (payload.length > 0) writer.tag(2, WireType.LengthDelimited).bytes(payload);
  for (const { name, startMicros, durationMicros } of parts) {
    writer.tag(partsField, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.LengthDelimited).string(name);
    writer.tag(2, WireType.LengthDelimited).string(String(startMicros));
    writer.tag(3, WireType.LengthDelimited).string(String(durationMicros));
    writer.join();
  }
  return writer.finish();
}

/** Far above the numbers that ttRPC may come to use itself. */
const partsField = 1000;

export function decodeResponse(bytes: Uint8Array): WireResponse {
  let payload: Uint8Array = emptyBytes;
  let error: RuntimeError | undefined;
  const parts: CallPart[] = [];
  readFields(bytes, {
    1: (reader) => { error = decodeStatus(reader.bytes()); },
    2: (reader) => { payload = reader.bytes(); },
    [partsField]: (reader) => {
      const part = { name: "", startMicros: 0, durationMicros: 0 };
      readFields(reader.bytes(), { 1: (inner) => { part.name = inner.string(); }, 2: (inner) => { part.startMicros = Number(inner.string()); }, 3: (inner) => { part.durationMicros = Number(inner.string()); } });
      if (parts.length < maxCallParts) parts.push(part);
    },
  });
  return { error, payload, parts };
}

/** Type of the one status detail we send: casemate.v1.ErrorReason {reason 1, hint 2}. */
const reasonTypeUrl = "type.googleapis.com/casemate.v1.ErrorReason";

function encodeReason(writer: BinaryWriter, { reason, hint }: RuntimeError): void {
  const value = new BinaryWriter();
  if (reason !== undefined) value.tag(1, WireType.LengthDelimited).string(reason);
  if (hint !== undefined) value.tag(2, WireType.LengthDelimited).string(hint);
  writer.tag(3, WireType.LengthDelimited).fork();
  writer.tag(1, WireType.LengthDelimited).string(reasonTypeUrl);
  writer.tag(2, WireType.LengthDelimited).bytes(value.finish());
  writer.join();
}

function decodeStatus(bytes: Uint8Array): RuntimeError | undefined {
  let number = 0;
  let message = "";
  const details: { reason?: string; hint?: string } = {};
  readFields(bytes, {
    1: (reader) => { number = reader.int32(); },
    2: (reader) => { message = reader.string(); },
    3: (reader) => {
      let typeUrl = "";
      let value: Uint8Array = emptyBytes;
      readFields(reader.bytes(), { 1: (inner) => { typeUrl = inner.string(); }, 2: (inner) => { value = inner.bytes(); } });
      if (typeUrl === reasonTypeUrl) readFields(value, { 1: (inner) => { details.reason = inner.string(); }, 2: (inner) => { details.hint = inner.string(); } });
    },
  });
  return number === 0 ? undefined : new RuntimeError(codeNames.get(number) ?? "unknown", message, details);
}

/** Reads the fields named; unknown ones are skipped. @throws whatever protobuf-es throws at malformed bytes. */
function readFields(bytes: Uint8Array, fields: Readonly<Record<number, (reader: BinaryReader) => void>>): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    const read = fields[field];
    const expected = field === 4 || (field === 1 && wireType === WireType.Varint) ? WireType.Varint : WireType.LengthDelimited;
    if (read === undefined || wireType !== expected) reader.skip(wireType, field);
    else read(reader);
  }
}

/** gRPC's numbers (https://grpc.io/docs/guides/status-codes/); the one table between our codes and the wire. */
const statusNumbers: Readonly<Record<ErrorCode, number>> = {
  canceled: 1, unknown: 2, invalid_argument: 3, deadline_exceeded: 4, not_found: 5, already_exists: 6, permission_denied: 7, resource_exhausted: 8,
  failed_precondition: 9, aborted: 10, out_of_range: 11, unimplemented: 12, internal: 13, unavailable: 14, data_loss: 15, unauthenticated: 16,
};
const codeNames = new Map(Object.entries(statusNumbers).map(([code, number]) => [number, code as ErrorCode])); // the keys of the table above
