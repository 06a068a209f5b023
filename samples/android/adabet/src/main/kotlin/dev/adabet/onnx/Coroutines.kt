package dev.adabet.onnx

import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.isActive
import kotlinx.coroutines.withContext

/** See [DevicePackage.score]. If the coroutine is cancelled, scoring ends after the current sample or layer. */
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
        ensureActive() // throws CancellationException if cancelled
        throw error
    }
}

/**
 * Trains while it is collected, one step for each requested event: while the collector suspends, training is paused. If
 * the collection is cancelled, training ends after the step; the progress file has the last complete epoch.
 *
 * @param on the dispatcher that computes; events are emitted in the collector's context
 */
public fun DevicePackage.training(
    samples: Samples,
    options: FitOptions = FitOptions(),
    on: CoroutineDispatcher = Dispatchers.Default,
): Flow<FitEvent> = flow {
    Closing().use { closing ->
        val events = withContext(on) { events(samples, options, closing).iterator() }
        while (withContext(on) { events.hasNext() }) emit(events.next())
    }
}

/** See [PersonalModel.predict]. */
public suspend fun PersonalModel.predictions(
    samples: Samples,
    on: CoroutineDispatcher = Dispatchers.Default,
): Map<String, Output> = withContext(on) { predict(samples) }
