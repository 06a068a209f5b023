// Train with any ONNX Runtime for JavaScript: `ort` is the module, the rest is what the artifact folder holds.

function product(shape) {
  return shape.reduce((a, b) => a * b, 1);
}

/**
 * Losses of training steps.
 *
 * @param ort the module onnxruntime-node or onnxruntime-web
 * @param files by name: frozen.onnx and step.onnx (bytes or, in node, path), weights.bin (bytes; null if the graphs are
 *   paths, next to which it is found), and state.bin (ArrayBuffer)
 * @param manifest content of manifest.json
 * @param batches list of {x, xShape, y}, flat numbers; @param rate the learning rate
 */
export async function train(ort, files, manifest, batches, rate) {
  const options = { executionProviders: manifest.providers ?? ["cpu"] };
  if (files["weights.bin"]) options.externalData = [{ path: "weights.bin", data: files["weights.bin"] }];
  const frozen = await ort.InferenceSession.create(files["frozen.onnx"], options);
  const session = await ort.InferenceSession.create(files["step.onnx"], options);
  const tensors = [...manifest.parameters, ...manifest.state];
  const values = {};
  for (const t of tensors) {
    values[t.input] = new ort.Tensor("float32", new Float32Array(files["state.bin"], t.offset, product(t.shape)), t.shape);
  }
  const losses = [];
  for (const [index, batch] of batches.entries()) {
    const x = new ort.Tensor("float32", Float32Array.from(batch.x), batch.xShape);
    const features = await frozen.run({ [manifest.inputs[0]]: x });
    const outputs = await session.run({
      ...values,
      ...features,
      [manifest.labels]: new ort.Tensor("int64", BigInt64Array.from(batch.y, BigInt), [batch.y.length]),
      [manifest.learning_rate]: new ort.Tensor("float32", Float32Array.of(rate), []),
      [manifest.step]: new ort.Tensor("int64", BigInt64Array.of(BigInt(index + 1)), []),
    });
    losses.push(outputs[manifest.loss].data[0]);
    for (const t of tensors) values[t.input] = outputs[t.output];
  }
  return losses;
}
