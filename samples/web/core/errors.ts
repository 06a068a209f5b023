/** Error codes, for programs; the message is for users. */
export type ErrorCode =
  /** A file is missing, damaged or invalid. */
  | "wrong-file"
  /** A file does not have the recorded SHA-256. */
  | "wrong-hash"
  /** The size or type of data or of a tensor does not match the model. */
  | "wrong-shape"
  /** Numbers that are NaN or infinite. */
  | "not-finite"
  /** A label that is not a class. */
  | "label-out-of-range"
  /** Training diverged; the state is that of the last complete epoch. */
  | "loss-not-finite"
  /** The runtime or the program ran out of memory, or the memory limit is too small. */
  | "out-of-memory"
  /** The storage is full. */
  | "storage-full"
  /** A delta or progress file belongs to another model, package or entry. */
  | "wrong-model"
  /** Too few samples to score or train with. */
  | "too-few-samples"
  /** An invalid option. */
  | "wrong-option"
  /** The entry is already being trained. */
  | "busy"
  /** The object was closed. */
  | "closed"
  /** Cancelled by the signal. */
  | "cancelled"
  /** Any other failure of the runtime. */
  | "runtime";

/** The only error class that this package throws. */
export class DeviceError extends Error {
  override readonly name = "DeviceError";

  /**
   * @param code the error code, for programs
   * @param message the problem, where it is, what was expected and found, and what to do
   * @param cause the original error
   */
  constructor(
    readonly code: ErrorCode,
    message: string,
    cause?: unknown,
  ) {
    super(message);
    if (cause !== undefined) (this as { cause?: unknown }).cause = cause;
  }
}

const MEMORY = new RegExp(
  "bad_alloc|\\bOOM\\b|out of memory|memory access out of bounds|failed to allocate|allocation failed|" +
    "invalid (typed )?array length",
  "i",
);
const STORAGE = /ENOSPC|EDQUOT|QuotaExceeded|no space left/i;

/**
 * Convert any error of the runtime, a reader or a callback to a DeviceError; its code is derived from its text.
 *
 * @param error the error; a DeviceError is returned unchanged
 * @param doing the operation that failed, such as "running step.onnx"
 */
export function wrapped(error: unknown, doing: string): DeviceError {
  if (error instanceof DeviceError) return error;
  const { name, code } = (error ?? {}) as { name?: unknown; code?: unknown };
  const text = (error instanceof Error ? error.message : String(error)).replace(/\.*\s*$/, "");
  const all = `${String(name)} ${String(code)} ${text}`;
  if (name === "AbortError") return new DeviceError("cancelled", `Cancelled while ${doing}.`, error);
  if (STORAGE.test(all)) {
    return new DeviceError(
      "storage-full",
      `No space left to store while ${doing}: ${text}. Free some space and try again.`,
      error,
    );
  }
  if (MEMORY.test(all)) {
    const advice = "Use a smaller batchSize, keepFeatures: false, or an entry that needs less memory.";
    return new DeviceError("out-of-memory", `Out of memory while ${doing}: ${text}. ${advice}`, error);
  }
  return new DeviceError("runtime", `Failed while ${doing}: ${text}.`, error);
}

/** Run an action; any error becomes a DeviceError. */
export async function guarded<T>(doing: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw wrapped(error, doing);
  }
}

/** Throw `cancelled` if the signal is aborted. */
export function checkSignal(signal: Signal | undefined, doing: string): void {
  if (signal?.aborted) throw new DeviceError("cancelled", `Cancelled while ${doing}.`);
}

/** The part of AbortSignal that is used; every platform has it. */
export interface Signal {
  readonly aborted: boolean;
}
