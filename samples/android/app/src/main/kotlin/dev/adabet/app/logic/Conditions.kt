package dev.adabet.app.logic

import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.first

/** The state of the device. */
data class Conditions(
    /** 0 to 100. */
    val battery: Int = 100,
    val charging: Boolean = true,
    /** Thermal status of PowerManager: 0 is none, 2 moderate, 3 severe. */
    val heat: Int = 0,
    /** Whether the user pressed the pause button. */
    val stopped: Boolean = false,
) {
    /** Why training should pause now; null if it need not. */
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
    HOT("waiting for the device to cool down"),
    BATTERY("waiting for the charger"),
}

/** Suspends while there is a reason to pause; reports each reason, and null when training continues. */
suspend fun StateFlow<Conditions>.good(told: (Hindrance?) -> Unit) {
    if (value.hindrance == null) return
    first {
        told(it.hindrance)
        it.hindrance == null
    }
}
