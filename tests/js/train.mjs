// Train with any ONNX Runtime for JavaScript: `ort` is the module, the rest is what the artifact folder holds.

function product(shape) {
  return shape.reduce((a, b) => a * b, 1);
}

/**
 * Losses of training steps.
 *
 * @param ort the module onnxruntime-node or onnxruntime-web
 * @param step bytes of step.onnx
 * @param state ArrayBuffer with state.bin
 * @param manifest content of manifest.json
 * @param batches list of {x, xShape, y}, flat numbers; @param rate the learning rate
 */
export async function train(ort, step, state, manifest, batches, rate) {
  const session = await ort.InferenceSession.create(step, { executionProviders: manifest.providers ?? ["cpu"] });
  const tensors = [...manifest.parameters, ...manifest.state];
  const values = {};
  for (const t of tensors) {
    values[t.input] = new ort.Tensor("float32", new Float32Array(state, t.offset, product(t.shape)), t.shape);
  }
  const losses = [];
  for (const [index, batch] of batches.entries()) {
    const outputs = await session.run({
      ...values,
      [manifest.inputs[0]]: new ort.Tensor("float32", Float32Array.from(batch.x), batch.xShape),
      [manifest.labels]: new ort.Tensor("int64", BigInt64Array.from(batch.y, BigInt), [batch.y.length]),
      [manifest.learning_rate]: new ort.Tensor("float32", Float32Array.of(rate), []),
      [manifest.step]: new ort.Tensor("int64", BigInt64Array.of(BigInt(index + 1)), []),
    });
    losses.push(outputs[manifest.loss].data[0]);
    for (const t of tensors) values[t.input] = outputs[t.output];
  }
  return losses;
}
