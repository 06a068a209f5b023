package android.app

import android.content.Context
import android.content.Intent
import android.os.IBinder

open class Application : Context()

abstract class Service : Context() {
    val application: Application = TODO()

    abstract fun onBind(intent: Intent?): IBinder?

    open fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int = TODO()

    open fun onTimeout(startId: Int, fgsType: Int): Unit = TODO()

    open fun onDestroy(): Unit = TODO()

    fun startForeground(id: Int, notification: Notification, type: Int): Unit = TODO()

    fun stopSelf(): Unit = TODO()

    companion object {
        const val START_NOT_STICKY = 2
    }
}

class Notification {
    class Builder(context: Context, channel: String) {
        fun setSmallIcon(icon: Int): Builder = TODO()

        fun setContentTitle(title: CharSequence): Builder = TODO()

        fun setContentText(text: CharSequence): Builder = TODO()

        fun setOngoing(ongoing: Boolean): Builder = TODO()

        fun build(): Notification = TODO()
    }
}

class NotificationChannel(id: String, name: CharSequence, importance: Int)

class NotificationManager {
    fun createNotificationChannel(channel: NotificationChannel): Unit = TODO()

    fun notify(id: Int, notification: Notification): Unit = TODO()

    companion object {
        const val IMPORTANCE_LOW = 2
    }
}

class ActivityManager {
    fun getMemoryInfo(info: MemoryInfo): Unit = TODO()

    class MemoryInfo {
        val availMem: Long = TODO()
        val threshold: Long = TODO()
    }
}
