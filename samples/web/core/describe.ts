import { Checked } from "./checks.js";
import type * as D from "./description.js";
import { DeviceError } from "./errors.js";
import { DTYPES, MOST_NUMBERS, kindOf, product } from "./numbers.js";
import { decoded } from "./bytes.js";

/** Reads the name of a file that the package must list. */
type FileName = (value: Checked) => string;

/**
 * Read device.json and check that every value that is used has the type and range of the format.
 *
 * @throws DeviceError wrong-file
 */
export function describe(bytes: Uint8Array): D.Description {
  let json: unknown;
  try {
    json = JSON.parse(decoded(bytes));
  } catch (error) {
    throw new DeviceError(
      "wrong-file",
      "device.json is not JSON: it is damaged or does not belong to a device package. Fetch it again.",
      error,
    );
  }
  const root = new Checked(json, "");
  const format = root.key("format").oneOf("adabet-onnx/device");
  if (root.key("version").count() !== 1) root.key("version").fail("1 (the only version that this program reads)");
  const files = root.key("files").list(fileRecord, 1);
  root.key("files").unique("the file", files);
  const file: FileName = (value) => {
    const name = value.fileName();
    return files.some((record) => record.name === name) ? name : value.fail("one of `files`");
  };
  const inputs = root.key("inputs").list(batchPort, 1);
  root.key("inputs").unique("the input", inputs);
  const entries = root.key("entries").list((value) => entry(value, file, files, inputs), 1);
  root.key("entries").unique("the entry", entries);
  return {
    format,
    version: 1,
    model: root.key("model").text(),
    model_sha256: root.key("model_sha256").sha256(),
    opset: root.key("opset").count(1),
    ir_version: root.key("ir_version").count(1),
    oldest_onnxruntime: root.key("oldest_onnxruntime").text(),
    profile: root.key("profile").orNull((value) => value.text()),
    forward_batch: root.optional("forward_batch", (value) => value.orNull(one)) ?? null,
    loss: root.key("loss").text(),
    files,
    weights: root.key("weights").orNull(file),
    inputs,
    outputs: root.key("outputs").list(outputPort, 1),
    labels: labels(root.key("labels")),
    class_names: root.key("class_names").orNull((value) => value.list((item) => item.text())),
    preprocessing: root.key("preprocessing").orNull(preprocessing),
    training: training(root.key("training")),
    scoring: root.key("scoring").orNull((value) => scoring(value, file)),
    entries,
  };
}

function one(value: Checked): 1 {
  return value.count(1) === 1 ? 1 : value.fail("1 or null");
}

function fileRecord(value: Checked): D.FileRecord {
  return {
    name: value.key("name").fileName(),
    bytes: value.key("bytes").count(),
    sha256: value.key("sha256").sha256(),
  };
}

/** A shape with "N" only at the front, and no more numbers than an array can hold. */
function shape(value: Checked): D.Shape {
  const extents: (number | "N")[] = [];
  value.list((item) => extents.push(extents.length === 0 && item.is("N") ? "N" : item.count(1)));
  return product(extents) <= MOST_NUMBERS ? extents : value.fail(`a shape of at most ${MOST_NUMBERS} numbers`);
}

function fixedShape(value: Checked): readonly number[] {
  const extents = value.list((item) => item.count(1));
  return product(extents) <= MOST_NUMBERS ? extents : value.fail(`a shape of at most ${MOST_NUMBERS} numbers`);
}

function batchShape(value: Checked): D.Shape {
  const extents = shape(value);
  return extents[0] === "N" ? extents : value.fail('a shape that begins with "N"');
}

/** A port: one row for each sample, with a supported type of numbers. */
function batchPort(value: Checked): D.Port {
  return {
    name: value.key("name").text(),
    dtype: value.key("dtype").oneOf(...DTYPES),
    shape: batchShape(value.key("shape")),
  };
}

function outputPort(value: Checked): D.OutputPort {
  const extent = (item: Checked) => item.numberOr((word) => word.matching(/^(\d+\*)?N$/, 'a number or "N"'));
  return {
    name: value.key("name").text(),
    dtype: value.key("dtype").text(),
    shape: value.key("shape").list(extent),
    role: value.key("role").orNull((word) => word.oneOf("logits", "probabilities")),
  };
}

function labels(value: Checked): D.LabelsPort {
  return {
    dtype: value.key("dtype").oneOf("int64", "float32"),
    shape: batchShape(value.key("shape")),
    classes: value.key("classes").orNull((item) => item.count(1)),
    ignore: value.key("ignore").orNull((item) => item.integer()),
  };
}

function preprocessing(value: Checked): D.Preprocessing {
  const nonzero = (item: Checked) => (item.number() === 0 ? item.fail("a number other than 0") : item.number());
  return {
    scale: nonzero(value.key("scale")),
    mean: value.key("mean").list((item) => item.number(), 1),
    std: value.key("std").list(nonzero, 1),
    channel_axis: value.key("channel_axis").orNull((item) => item.count()),
    data: value.key("data").oneOf("integer", "float"),
    bgr: value.key("bgr").flag(),
  };
}

function training(value: Checked): D.TrainingDefaults {
  return {
    learning_rate: value.key("learning_rate").number(),
    batch_size: value.key("batch_size").count(1),
    epochs: value.key("epochs").count(1),
    seed: value.key("seed").integer(),
  };
}

function scoring(value: Checked, file: FileName): D.Scoring {
  const layers = value.key("layers").list(
    (layer) => ({
      name: layer.key("name").text(),
      output: layer.key("output").text(),
      numbers: layer.key("numbers").count(1),
      size: layer.key("size").count(1),
    }),
    1,
  );
  value.key("layers").unique("the layer", layers);
  return {
    file: file(value.key("file")),
    samples: value.key("samples").count(1),
    points: value.key("points").count(1),
    subsets: value.key("subsets").count(1),
    seed: value.key("seed").integer(),
    layers,
  };
}

function entry(value: Checked, file: FileName, files: readonly D.FileRecord[], inputs: readonly D.Port[]): D.Entry {
  const name = (key: string) => value.key("names").key(key).text();
  const tensors = value.key("tensors").list(tensor, 1);
  value.key("tensors").unique("the tensor", tensors);
  const state = file(value.key("state"));
  const selected = file(value.key("selected"));
  const size = value.key("selected_bytes").count();
  const bytes = (of: string) => files.find((record) => record.name === of)?.bytes ?? 0;
  layout(value.key("tensors"), tensors, size);
  for (const name of [state, selected])
    if (bytes(name) !== size) value.key("selected_bytes").fail(`the size of ${name}, ${bytes(name)}`);
  const memory = value.key("memory").list(pair, 1);
  memory.reduce((last, [batch]) => (batch > last ? batch : value.key("memory").fail("ascending batches")), 0);
  const frozen = value.key("frozen").orNull(file);
  return {
    name: value.key("name").text(),
    layers: value.key("layers").list((layer) => layer.text()),
    trained: value.key("trained").count(1),
    frozen,
    step: file(value.key("step")),
    evaluation: file(value.key("evaluation")),
    prediction: file(value.key("prediction")),
    state,
    model: value.key("model").orNull(file),
    selected,
    selected_bytes: size,
    boundary: value.key("boundary").list((item) => boundary(item, inputs, frozen), 1),
    names: {
      labels: name("labels"),
      learning_rate: name("learning_rate"),
      step: name("step"),
      loss: name("loss"),
      logits: name("logits"),
    },
    logits_shape: batchShape(value.key("logits_shape")),
    class_axis: value.key("class_axis").orNull((axis) => axis.count(1)),
    tensors,
    memory,
    multiply_adds: {
      frozen: value.key("multiply_adds").key("frozen").count(),
      step: value.key("multiply_adds").key("step").count(),
    },
  };
}

function pair(value: Checked): readonly [number, number] {
  const [batch, bytes, ...more] = value.list((item) => item.count(1), 2);
  return more.length === 0 ? [batch!, bytes!] : value.fail("[batch, bytes]");
}

function boundary(value: Checked, inputs: readonly D.Port[], frozen: string | null): D.Boundary {
  const port = batchPort(value);
  const bytes = value.key("bytes").count(1);
  const expected = product(port.shape) * kindOf(port.dtype)!.bytes;
  if (bytes !== expected) value.key("bytes").fail(`the ${expected} bytes of its shape and dtype`);
  const input = value.key("input").orNull((name) => name.oneOf(...inputs.map((given) => given.name)));
  if (input === null && frozen === null) value.key("input").fail("an input of the model, as there is no frozen graph");
  const same = inputs.find((given) => given.name === input);
  if (same !== undefined && (same.dtype !== port.dtype || String(same.shape) !== String(port.shape))) {
    value.key("shape").fail(`the shape of the input ${JSON.stringify(input)}`);
  }
  return { ...port, bytes, input };
}

function tensor(value: Checked): D.TensorRecord {
  const extents = fixedShape(value.key("shape"));
  const bytes = value.key("bytes").count(4);
  if (bytes !== 4 * product(extents)) value.key("bytes").fail(`the ${4 * product(extents)} bytes of its shape`);
  const offset = value.key("offset").count();
  if (offset % 64 !== 0) value.key("offset").fail("a multiple of 64");
  const channels = value.optional("channels", (part) => ({
    axis: part.key("axis").count(),
    indices: part.key("indices").list((index) => index.count(), 1),
  }));
  return {
    name: value.key("name").text(),
    kind: value.key("kind").oneOf("parameter", "statistic", "optimizer"),
    input: value.key("input").text(),
    output: value.key("output").text(),
    dtype: value.key("dtype").oneOf("float32"),
    shape: extents,
    offset,
    bytes,
    ...(channels === undefined ? {} : { channels }),
  };
}

/** Check the order of tensors: first those in the personal model's file, then the optimizer's. */
function layout(where: Checked, tensors: readonly D.TensorRecord[], selectedBytes: number): void {
  const kinds = ["parameter", "statistic", "optimizer"];
  let [end, kind] = [0, 0];
  for (const { name, kind: found, offset, bytes } of tensors) {
    const shown = JSON.stringify(name);
    if (kinds.indexOf(found) < kind)
      where.refuse(`should have parameters, statistics and the optimizer's tensors in this order, found ${shown}`);
    if (offset < end)
      where.refuse(`should have tensors that do not overlap, found ${shown} at ${offset}, before ${end}`);
    [end, kind] = [offset + bytes, kinds.indexOf(found)];
    if (found !== "optimizer" && end > selectedBytes)
      where.refuse(`has ${shown} up to ${end}, after the ${selectedBytes} bytes of the file`);
    if (found === "optimizer" && offset < selectedBytes)
      where.refuse(`has the optimizer's ${shown} at ${offset}, within the ${selectedBytes} bytes of the file`);
  }
  if (tensors[0].kind !== "parameter") where.refuse("should have at least one parameter");
  for (const side of ["input", "output"] as const)
    where.unique(
      `the ${side}`,
      tensors.map((tensor) => ({ name: tensor[side] })),
    );
}
