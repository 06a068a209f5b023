package dev.adabet.app

import android.app.ActivityManager
import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.Service
import android.content.Context
import android.content.Intent
import android.content.pm.ServiceInfo
import android.os.IBinder
import dev.adabet.app.logic.Status
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancel
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.launch

/** Trains while the app is in the background. If the service is stopped, the next start resumes after the last complete
 * epoch. */
class TrainingService : Service() {
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)
    private var training: Job? = null
    private val app: App get() = application as App

    override fun onBind(intent: Intent?): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        val notifications = getSystemService(NotificationManager::class.java)
        val channel = NotificationChannel(CHANNEL, getString(R.string.channel), NotificationManager.IMPORTANCE_LOW)
        notifications.createNotificationChannel(channel)
        startForeground(ID, notification(text(app.status.value)), ServiceInfo.FOREGROUND_SERVICE_TYPE_DATA_SYNC)
        if (training?.isActive != true) training = scope.launch { train(notifications) }
        return START_NOT_STICKY
    }

    private suspend fun train(notifications: NotificationManager) {
        val watching = scope.launch { watched(this@TrainingService, app.conditions).collect() }
        try {
            app.retraining.run(app.pictures, memory(), app.conditions).collect {
                if (text(it) != text(app.status.value)) notifications.notify(ID, notification(text(it)))
                app.status.value = it
            }
        } catch (error: CancellationException) {
            app.status.value = Status.Idle
            throw error
        } catch (error: Exception) {
            app.status.value = Status.Failed(error.message ?: error.javaClass.simpleName)
        } finally {
            watching.cancel()
            stopSelf()
        }
    }

    /** A quarter of the free memory, since other apps need some. */
    private fun memory(): Long {
        val info = ActivityManager.MemoryInfo()
        getSystemService(ActivityManager::class.java).getMemoryInfo(info)
        return maxOf(0, info.availMem - info.threshold) / 4
    }

    private fun notification(text: String): Notification = Notification.Builder(this, CHANNEL)
        .setSmallIcon(android.R.drawable.stat_notify_sync)
        .setContentTitle(getString(R.string.app_name))
        .setContentText(text)
        .setOngoing(true)
        .build()

    /** Called after six hours per day, since Android 15. */
    override fun onTimeout(startId: Int, fgsType: Int) {
        training?.cancel()
        stopSelf()
    }

    override fun onDestroy() {
        scope.cancel()
        super.onDestroy()
    }

    internal companion object {
        private const val CHANNEL = "training"
        private const val ID = 1

        fun start(context: Context) {
            context.startForegroundService(Intent(context, TrainingService::class.java))
        }
    }
}

/** Shows epochs, not steps, since notifications that change often are throttled. */
internal fun text(status: Status): String = when (status) {
    is Status.Idle -> "nothing to do"
    is Status.Scoring -> "choosing the layers to train"
    is Status.Preparing -> "preparing the pictures"
    is Status.Training -> "epoch ${status.epoch} of ${status.epochs}" + percent(status.accuracy)
    is Status.Waiting -> status.reason.text
    is Status.Done -> "trained" + percent(status.accuracy)
    is Status.Failed -> "it failed: ${status.message}"
}

private fun percent(accuracy: Double?): String = if (accuracy == null) "" else ", %.0f %% right".format(100 * accuracy)
