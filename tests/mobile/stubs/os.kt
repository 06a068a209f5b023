package android.os

interface IBinder

class Bundle

class Build {
    class VERSION {
        companion object {
            val SDK_INT: Int = TODO()
        }
    }
}

class BatteryManager {
    companion object {
        const val EXTRA_LEVEL = ""
        const val EXTRA_SCALE = ""
        const val EXTRA_PLUGGED = ""
    }
}

class PowerManager {
    fun interface OnThermalStatusChangedListener {
        fun onThermalStatusChanged(status: Int)
    }

    fun addThermalStatusListener(listener: OnThermalStatusChangedListener): Unit = TODO()

    fun removeThermalStatusListener(listener: OnThermalStatusChangedListener): Unit = TODO()
}
