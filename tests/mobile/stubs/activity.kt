package androidx.activity

import android.app.Application
import android.content.Context
import android.os.Bundle

open class ComponentActivity : Context() {
    val application: Application = TODO()

    open fun onCreate(savedInstanceState: Bundle?): Unit = TODO()
}
