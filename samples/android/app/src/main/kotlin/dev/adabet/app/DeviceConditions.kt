package dev.adabet.app

import android.content.BroadcastReceiver
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.PowerManager
import dev.adabet.app.logic.Conditions
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.flow.update

/** Reports the battery and thermal state while it is collected. */
internal fun watched(context: Context, conditions: MutableStateFlow<Conditions>) = callbackFlow<Nothing> {
    val power = context.getSystemService(PowerManager::class.java)
    val battery = object : BroadcastReceiver() {
        override fun onReceive(context: Context, intent: Intent) {
            val level = intent.getIntExtra(BatteryManager.EXTRA_LEVEL, 100)
            val scale = maxOf(1, intent.getIntExtra(BatteryManager.EXTRA_SCALE, 100))
            val plugged = intent.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0)
            conditions.update { it.copy(battery = 100 * level / scale, charging = plugged != 0) }
        }
    }
    val heat = PowerManager.OnThermalStatusChangedListener { now -> conditions.update { it.copy(heat = now) } }
    context.registerReceiver(battery, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
    power.addThermalStatusListener(heat)
    awaitClose {
        context.unregisterReceiver(battery)
        power.removeThermalStatusListener(heat)
    }
}
