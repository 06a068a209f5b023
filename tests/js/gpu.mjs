// Jobs of a page on a GPU with either bundle of onnxruntime-web: train an artifact folder, or run single models.

const ARRAYS = { float32: Float32Array, int32: Int32Array, bool: Uint8Array };

function product(shape) {
  return shape.reduce((a, b) => a * b, 1);
}

function tensor(ort, { dtype, data, shape }) {
  const values = dtype === "int64" ? BigInt64Array.from(data, BigInt) : ARRAYS[dtype].from(data);
  return new ort.Tensor(dtype, values, shape);
}

async function fetched(value) {
  return value.location === "cpu" ? value.data : value.getData();
}

/** Session options; with a layout only if one is given. */
function options(layout) {
  return { executionProviders: [layout ? { name: "webgpu", preferredLayout: layout } : "webgpu"] };
}

/**
 * Losses of training steps, and the parameters after them. Features, parameters and state stay on the GPU: only the
 * loss is fetched. Every buffer is disposed of once its successor exists.
 *
 * @param ort the module onnxruntime-web
 * @param load returns the bytes of a file of the artifact folder
 * @param given {batches: [{x, xShape, y}], rate}; @param layout NCHW, NHWC or none
 */
export async function train(ort, load, given, layout) {
  const manifest = JSON.parse(new TextDecoder().decode(await load("manifest.json")));
  const tensors = [...manifest.parameters, ...manifest.state];
  const features = manifest.boundary.filter((kept) => kept.dtype === "float32").map((kept) => kept.name);
  const onGpu = (names) => Object.fromEntries(names.map((name) => [name, "gpu-buffer"]));
  const weights = [{ path: "weights.bin", data: await load("weights.bin") }];
  const create = async (file, names) =>
    ort.InferenceSession.create(await load(file), {
      ...options(layout), externalData: weights, preferredOutputLocation: onGpu(names),
    });
  const frozen = await create("frozen.onnx", features);
  const step = await create("step.onnx", tensors.map((t) => t.output));
  const state = (await load("state.bin")).buffer;
  const values = {};
  for (const t of tensors) {
    values[t.input] = new ort.Tensor("float32", new Float32Array(state, t.offset, product(t.shape)), t.shape);
  }
  const drop = (value) => value.location === "gpu-buffer" && value.dispose();
  const [losses, places, times] = [[], new Set(), []];
  for (const [index, batch] of given.batches.entries()) {
    const began = performance.now();
    const made = await frozen.run({ [manifest.inputs[0]]: tensor(ort, { dtype: "float32", data: batch.x, shape: batch.xShape }) });
    const outputs = await step.run(
      {
        ...values,
        ...made,
        [manifest.labels]: tensor(ort, { dtype: "int64", data: batch.y, shape: [batch.y.length] }),
        [manifest.learning_rate]: tensor(ort, { dtype: "float32", data: [given.rate], shape: [] }),
        [manifest.step]: tensor(ort, { dtype: "int64", data: [index + 1], shape: [] }),
      },
      [manifest.loss, ...tensors.map((t) => t.output)],
    );
    losses.push((await fetched(outputs[manifest.loss]))[0]);
    Object.values(made).forEach(drop);
    for (const t of tensors) {
      drop(values[t.input]);
      values[t.input] = outputs[t.output];
      places.add(outputs[t.output].location);
    }
    times.push(Math.round(performance.now() - began));
  }
  const parameters = {};
  for (const t of manifest.parameters) {
    parameters[t.name] = Array.from(await fetched(values[t.input]));
    drop(values[t.input]);
  }
  return { losses, parameters, places: [...places], times };
}

/**
 * The outputs of models, or their errors.
 *
 * @param models [{name, model (base64), feeds: {name: {dtype, data, shape}}}]
 */
export async function runAll(ort, models, layout) {
  const found = {};
  for (const { name, model, feeds } of models) {
    try {
      const bytes = Uint8Array.from(atob(model), (letter) => letter.charCodeAt(0));
      const session = await ort.InferenceSession.create(bytes, options(layout));
      const given = Object.fromEntries(Object.entries(feeds).map(([key, value]) => [key, tensor(ort, value)]));
      const outputs = await session.run(given);
      found[name] = {};
      for (const key of session.outputNames) {
        found[name][key] = Array.from(await fetched(outputs[key]), Number);
      }
      await session.release();
    } catch (error) {
      found[name] = { error: String(error) };
    }
  }
  return found;
}
