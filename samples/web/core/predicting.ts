import type { Description, Entry } from "./description.js";
import { DeviceError, checkSignal } from "./errors.js";
import type { Signal } from "./errors.js";
import { alike } from "./numbers.js";
import type { Inputs } from "./rows.js";
import type { Runner } from "./runner.js";
import type { Numbers, Output } from "./types.js";
import type { Values } from "./values.js";

/** The model's outputs by name, for all samples. */
export async function predicted(
  runner: Runner,
  description: Description,
  entry: Entry,
  values: Values,
  inputs: Inputs,
  batchSize: number,
  signal?: Signal,
): Promise<{ [output: string]: Output }> {
  const names = description.outputs.map(({ name }) => name);
  const parts = new Map<string, Output[]>(names.map((name) => [name, []]));
  for (let begin = 0; begin < inputs.count; begin += batchSize) {
    checkSignal(signal, "predicting");
    const rows = Array.from({ length: Math.min(batchSize, inputs.count - begin) }, (_, i) => begin + i);
    const feeds = await inputs.tensors(rows);
    await runner.run(
      entry.prediction,
      () => ({ ...feeds, ...values.feeds() }),
      names,
      (outputs) => {
        for (const [name, tensor] of Object.entries(outputs)) {
          parts.get(name)!.push({ data: (tensor.data as Numbers).slice(), shape: [...tensor.dims] });
          tensor.dispose();
        }
      },
    );
    for (const tensor of Object.values(feeds)) tensor.dispose();
  }
  return Object.fromEntries(names.map((name) => [name, joined(name, parts.get(name)!)]));
}

/** Concatenate the outputs of batches. */
function joined(name: string, parts: readonly Output[]): Output {
  if (parts.length === 0) throw new DeviceError("too-few-samples", "There are no samples. Give at least one.");
  if (parts.length === 1) return parts[0];
  const [first, ...others] = parts.map(({ shape }) => String(shape.slice(1)));
  if (parts[0].shape.length === 0 || others.some((rest) => rest !== first)) {
    throw new DeviceError(
      "wrong-shape",
      `Output ${JSON.stringify(name)} does not have the samples as its first axis: predict at most one batch, ` +
        "or use a larger batchSize.",
    );
  }
  const data = alike(
    parts[0].data,
    parts.reduce((sum, part) => sum + part.data.length, 0),
  );
  let at = 0;
  for (const part of parts) {
    data.set(part.data as never, at);
    at += part.data.length;
  }
  return { data, shape: [parts.reduce((sum, { shape }) => sum + shape[0], 0), ...parts[0].shape.slice(1)] };
}
