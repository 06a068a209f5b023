package androidx.compose.material3

import androidx.compose.foundation.layout.RowScope
import androidx.compose.runtime.Composable

class TextStyle

class Typography {
    val headlineSmall: TextStyle = TODO()
}

class MaterialTheme {
    companion object {
        val typography: Typography = TODO()
    }
}

@Composable
fun MaterialTheme(content: @Composable () -> Unit): Unit = TODO()

@Composable
fun Surface(content: @Composable () -> Unit): Unit = TODO()

@Composable
fun Text(text: String, style: TextStyle = TODO()): Unit = TODO()

@Composable
fun RadioButton(selected: Boolean, onClick: (() -> Unit)?): Unit = TODO()

@Composable
fun Button(onClick: () -> Unit, enabled: Boolean = true, content: @Composable RowScope.() -> Unit): Unit = TODO()

@Composable
fun OutlinedButton(
    onClick: () -> Unit,
    enabled: Boolean = true,
    content: @Composable RowScope.() -> Unit,
): Unit = TODO()
