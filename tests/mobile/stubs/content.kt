package android.content

import android.content.res.AssetManager
import android.net.Uri
import java.io.File

abstract class Context {
    val assets: AssetManager = TODO()
    val filesDir: File = TODO()
    val packageName: String = TODO()
    val contentResolver: ContentResolver = TODO()

    fun <T> getSystemService(service: Class<T>): T = TODO()

    fun getString(id: Int): String = TODO()

    fun registerReceiver(receiver: BroadcastReceiver, filter: IntentFilter): Intent? = TODO()

    fun unregisterReceiver(receiver: BroadcastReceiver): Unit = TODO()

    fun startActivity(intent: Intent): Unit = TODO()

    fun startForegroundService(intent: Intent): Any? = TODO()
}

class ContentResolver

class IntentFilter(action: String)

abstract class BroadcastReceiver {
    abstract fun onReceive(context: Context, intent: Intent)
}

class Intent(action: String) {
    constructor(context: Context, target: Class<*>) : this("")

    fun setType(type: String): Intent = TODO()

    fun putExtra(name: String, value: Uri): Intent = TODO()

    fun addFlags(flags: Int): Intent = TODO()

    fun getIntExtra(name: String, otherwise: Int): Int = TODO()

    companion object {
        const val ACTION_SEND = ""
        const val ACTION_BATTERY_CHANGED = ""
        const val EXTRA_STREAM = ""
        const val FLAG_GRANT_READ_URI_PERMISSION = 1
        const val FLAG_ACTIVITY_NEW_TASK = 2

        fun createChooser(target: Intent, title: CharSequence?): Intent = TODO()
    }
}
