package dev.adabet.app.logic

import dev.adabet.onnx.Description
import dev.adabet.onnx.PersonalModel
import dev.adabet.onnx.PictureLayout
import dev.adabet.onnx.Samples
import dev.adabet.onnx.feedPicture

/** The class with the largest value in the model's first output. */
fun recognised(model: PersonalModel, description: Description, argb: IntArray, layout: PictureLayout): Int {
    val input = description.inputs[0]
    val samples = Samples(mapOf(input.name to description.feedPicture(input, argb, layout.width, layout.height)))
    val output = description.outputs.firstOrNull { it.role != null } ?: description.outputs[0]
    val numbers = model.predict(samples).getValue(output.name).data.asFloatBuffer()
    return (0 until numbers.remaining()).maxBy { numbers.get(it) }
}
