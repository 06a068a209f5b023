package dev.adabet.app.logic

import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.first

/** How the device is. */
data class Conditions(
    /** 0 to 100. */
    val battery: Int = 100,
    val charging: Boolean = true,
    /** As PowerManager has it: 0 is none, 2 moderate, 3 severe. */
    val heat: Int = 0,
    /** Somebody pressed the button. */
    val stopped: Boolean = false,
) {
    /** Why nothing should be computed now; null if there is no reason. */
    val hindrance: Hindrance?
        get() = when {
            stopped -> Hindrance.STOPPED
            heat >= MODERATE -> Hindrance.HOT
            !charging && battery < LEAST -> Hindrance.BATTERY
            else -> null
        }

    private companion object {
        const val LEAST = 30
        const val MODERATE = 2
    }
}

enum class Hindrance(val text: String) {
    STOPPED("paused"),
    HOT("waiting until the device is cooler"),
    BATTERY("waiting for the charger"),
}

/** Suspends while there is a reason not to compute; tells each reason, and null when it goes on. */
suspend fun StateFlow<Conditions>.good(told: (Hindrance?) -> Unit) {
    if (value.hindrance == null) return
    first {
        told(it.hindrance)
        it.hindrance == null
    }
}
