package android

class Manifest {
    class permission {
        companion object {
            const val POST_NOTIFICATIONS = ""
        }
    }
}

class R {
    class drawable {
        companion object {
            const val stat_notify_sync = 0
        }
    }
}
