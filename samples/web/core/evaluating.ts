import type { Description, Entry } from "./description.js";
import { DeviceError, checkSignal } from "./errors.js";
import type { Signal } from "./errors.js";
import type { Features } from "./features.js";
import { product } from "./numbers.js";
import type { CheckedLabels } from "./rows.js";
import type { Runner } from "./runner.js";
import type { Evaluation, Numbers } from "./types.js";
import type { Values } from "./values.js";

interface Sums {
  loss: number;
  right: number;
  counted: number;
}

/** Evaluates samples: loss and accuracy. */
export async function evaluated(
  runner: Runner,
  { labels: port }: Description,
  entry: Entry,
  values: Values,
  features: Features,
  labels: CheckedLabels,
  batchSize: number,
  signal?: Signal,
): Promise<Evaluation> {
  const sums: Sums = { loss: 0, right: 0, counted: 0 };
  const { loss, logits, labels: given } = entry.names;
  const perSample = product(port.shape);
  for (let begin = 0; begin < features.count; begin += batchSize) {
    checkSignal(signal, "evaluating");
    const rows = Uint32Array.from({ length: Math.min(batchSize, features.count - begin) }, (_, i) => begin + i);
    const feeds = { ...(await features.tensors(rows)), [given]: labels.tensor(runner, rows) };
    await runner.run(
      entry.evaluation,
      () => ({ ...feeds, ...values.feeds() }),
      [loss, logits],
      (outputs) => {
        const some = labels.data.subarray(begin * perSample, (begin + rows.length) * perSample);
        add(sums, Number(outputs[loss].data[0]), outputs[logits].data as Numbers, some, labels, entry);
        for (const tensor of Object.values(outputs)) tensor.dispose();
      },
    );
    for (const tensor of Object.values(feeds)) tensor.dispose();
  }
  if (sums.counted === 0)
    throw new DeviceError("too-few-samples", "All labels are ignored, so there is nothing to evaluate. Give others.");
  const accuracy = entry.class_axis === null || port.dtype !== "int64" ? null : sums.right / sums.counted;
  return { loss: sums.loss / sums.counted, accuracy, samples: features.count };
}

function add(sums: Sums, loss: number, logits: Numbers, given: Numbers, labels: CheckedLabels, entry: Entry): void {
  let counted = 0;
  for (const label of given) if (labels.counts(label)) counted += 1;
  if (counted > 0) sums.loss += loss * counted;
  sums.counted += counted;
  if (entry.class_axis === null) return;
  const classes = product(entry.logits_shape.slice(entry.class_axis, entry.class_axis + 1));
  const inner = product(entry.logits_shape.slice(entry.class_axis + 1));
  if (logits.length !== given.length * classes) {
    throw new DeviceError(
      "wrong-file",
      `${entry.evaluation} gives ${logits.length} logits for ${given.length} labels and ${classes} classes. ` +
        "Fetch the package again.",
    );
  }
  for (let i = 0; i < given.length; i++) {
    if (!labels.counts(given[i])) continue;
    const first = Math.floor(i / inner) * classes * inner + (i % inner);
    let best = 0;
    for (let c = 1; c < classes; c++) if (logits[first + c * inner] > logits[first + best * inner]) best = c;
    if (best === Number(given[i])) sums.right += 1;
  }
}
