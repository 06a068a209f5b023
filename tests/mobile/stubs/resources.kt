package dev.adabet.app

class R {
    class string {
        companion object {
            const val app_name = 0
            const val channel = 1
        }
    }
}
