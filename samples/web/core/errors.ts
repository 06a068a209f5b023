/** What can go wrong. A program acts on the code, a person on the message. */
export type ErrorCode =
  /** A file is missing, damaged or not what it should be. */
  | "wrong-file"
  /** A file's SHA-256 is not the one that was promised. */
  | "wrong-hash"
  /** Data or a tensor of another size or type than the model takes. */
  | "wrong-shape"
  /** Numbers that are NaN or infinite. */
  | "not-finite"
  /** A label that is not a class. */
  | "label-out-of-range"
  /** Training diverged; the state of the last complete epoch remains. */
  | "loss-not-finite"
  /** The runtime or the program had no memory left, or less was allowed than is needed. */
  | "out-of-memory"
  /** A place to store something is full. */
  | "storage-full"
  /** A delta or progress of another model, package or entry. */
  | "wrong-model"
  /** Too few samples to score or train with. */
  | "too-few-samples"
  /** An option that makes no sense. */
  | "wrong-option"
  /** Training is already going on. */
  | "busy"
  /** It was closed before. */
  | "closed"
  /** The signal said to stop. */
  | "cancelled"
  /** The runtime failed in a way not known here. */
  | "runtime";

/** The one class of errors that this package throws. */
export class DeviceError extends Error {
  override readonly name = "DeviceError";

  /**
   * @param code what went wrong, for programs
   * @param message what was wrong, where, what was expected and found, and what to do
   * @param cause the error that it came from
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
 * Any error as one of ours: what the runtime, a reader or a callback threw, told by its text.
 *
 * @param error what was thrown; one of ours is returned as it is
 * @param doing what was being done, such as "running step.onnx"
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
    const advice = "Take a smaller batchSize, keepFeatures: false, or an entry that needs less.";
    return new DeviceError("out-of-memory", `Out of memory while ${doing}: ${text}. ${advice}`, error);
  }
  return new DeviceError("runtime", `Failed while ${doing}: ${text}.`, error);
}

/** Do something; whatever it throws becomes one of our errors. */
export async function guarded<T>(doing: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw wrapped(error, doing);
  }
}

/** Throw `cancelled` where the signal says so. */
export function checkSignal(signal: Signal | undefined, doing: string): void {
  if (signal?.aborted) throw new DeviceError("cancelled", `Cancelled while ${doing}.`);
}

/** The part of AbortSignal that is used: every platform's fits. */
export interface Signal {
  readonly aborted: boolean;
}
