import type { Numbers } from "./types.js";

interface Kind {
  readonly bytes: number;
  /** Whether an array has the type for this dtype. */
  takes(data: Numbers): boolean;
}

type Constructor = { readonly BYTES_PER_ELEMENT: number; new (size: number): Numbers };
const halves = (globalThis as unknown as { Float16Array?: Constructor }).Float16Array;

function kind(...constructors: readonly Constructor[]): Kind {
  return {
    bytes: constructors[0].BYTES_PER_ELEMENT,
    takes: (data) => constructors.some((one) => data instanceof one),
  };
}

const KINDS: { readonly [dtype: string]: Kind } = {
  float32: kind(Float32Array),
  float64: kind(Float64Array),
  float16: halves === undefined ? kind(Uint16Array) : kind(Uint16Array, halves),
  int8: kind(Int8Array),
  int16: kind(Int16Array),
  int32: kind(Int32Array),
  int64: kind(BigInt64Array),
  uint8: kind(Uint8Array),
  uint16: kind(Uint16Array),
  uint32: kind(Uint32Array),
  uint64: kind(BigUint64Array),
  bool: kind(Uint8Array),
};

/** The supported dtypes of tensors. */
export const DTYPES: readonly string[] = Object.keys(KINDS);

/** Limit of the numbers in one tensor: far more than a model for a device has, and what an array can hold. */
export const MOST_NUMBERS = 2 ** 31 - 1;

/** Bytes of one number and the array type; undefined for an unknown dtype. */
export function kindOf(dtype: string): Kind | undefined {
  return Object.prototype.hasOwnProperty.call(KINDS, dtype) ? KINDS[dtype] : undefined;
}

/** Number of elements of a sample or a tensor. */
export function product(shape: readonly (number | string)[]): number {
  return shape.reduce<number>((sum, extent) => (typeof extent === "number" ? sum * extent : sum), 1);
}

/** An array of the same kind with `size` numbers. */
export function alike(data: Numbers, size: number): Numbers {
  return new (data.constructor as Constructor)(size);
}

/** Copy the rows at the indices `rows` of an array into a new array. */
export function gathered(data: Numbers, rows: ArrayLike<number>, size: number): Numbers {
  const taken = alike(data, rows.length * size);
  for (let i = 0; i < rows.length; i++) put(taken, i * size, data, rows[i] * size, size);
  return taken;
}

/** Copy `size` numbers between arrays of the same kind. */
export function put(to: Numbers, at: number, from: Numbers, begin: number, size: number): void {
  to.set(from.subarray(begin, begin + size) as never, at);
}
