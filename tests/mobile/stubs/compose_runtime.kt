package androidx.compose.runtime

import kotlin.reflect.KProperty
import kotlinx.coroutines.CoroutineScope

@Target(AnnotationTarget.FUNCTION, AnnotationTarget.TYPE)
annotation class Composable

interface State<out T> {
    val value: T
}

interface MutableState<T> : State<T> {
    override var value: T
}

interface MutableIntState : MutableState<Int>

operator fun <T> State<T>.getValue(owner: Any?, property: KProperty<*>): T = TODO()

operator fun <T> MutableState<T>.setValue(owner: Any?, property: KProperty<*>, value: T): Unit = TODO()

fun <T> mutableStateOf(value: T): MutableState<T> = TODO()

fun mutableIntStateOf(value: Int): MutableIntState = TODO()

@Composable
fun <T> remember(calculation: () -> T): T = TODO()

@Composable
fun <T> remember(key: Any?, calculation: () -> T): T = TODO()

@Composable
fun rememberCoroutineScope(): CoroutineScope = TODO()

@Composable
fun LaunchedEffect(key: Any?, block: suspend CoroutineScope.() -> Unit): Unit = TODO()
