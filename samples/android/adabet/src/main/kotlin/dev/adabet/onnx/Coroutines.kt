package dev.adabet.onnx

import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.isActive
import kotlinx.coroutines.withContext

/** See [DevicePackage.score]. Cancelling the coroutine ends it after a sample or layer. */
public suspend fun DevicePackage.scores(
    samples: Samples,
    on: CoroutineDispatcher = Dispatchers.Default,
    told: (done: Int, of: Int) -> Unit = { _, _ -> },
): Scores = withContext(on) {
    try {
        score(samples) { done, of ->
            told(done, of)
            isActive
        }
    } catch (error: DeviceException) {
        ensureActive() // cancelled, it ends as coroutines do
        throw error
    }
}

/**
 * Trains while it is collected. Cancelling the collection ends training after the step; the progress file has the last
 * whole epoch, and so has the last [FitEvent.Epoch].
 *
 * @param gate called before each step: while it suspends, training is paused
 */
public fun DevicePackage.training(
    samples: Samples,
    options: FitOptions = FitOptions(),
    on: CoroutineDispatcher = Dispatchers.Default,
    gate: suspend () -> Unit = {},
): Flow<FitEvent> = flow {
    gate()
    events(samples, options) { event ->
        emit(event)
        currentCoroutineContext().ensureActive()
        if (event is FitEvent.Step || event is FitEvent.Prepared) gate()
    }
}.buffer(Channel.RENDEZVOUS).flowOn(on)

/** See [PersonalModel.predict]. */
public suspend fun PersonalModel.predictions(
    samples: Samples,
    on: CoroutineDispatcher = Dispatchers.Default,
): Map<String, Output> = withContext(on) { predict(samples) }
