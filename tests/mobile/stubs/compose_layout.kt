package androidx.compose.foundation.layout

import androidx.compose.runtime.Composable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.Dp

interface ColumnScope

interface RowScope

class Arrangement {
    interface Horizontal

    companion object {
        fun spacedBy(space: Dp): Horizontal = TODO()
    }
}

fun Modifier.fillMaxWidth(): Modifier = TODO()

fun Modifier.padding(all: Dp): Modifier = TODO()

fun Modifier.safeDrawingPadding(): Modifier = TODO()

@Composable
fun Column(modifier: Modifier = Modifier, content: @Composable ColumnScope.() -> Unit): Unit = TODO()

@Composable
fun Row(
    modifier: Modifier = Modifier,
    horizontalArrangement: Arrangement.Horizontal = TODO(),
    verticalAlignment: Alignment.Vertical = TODO(),
    content: @Composable RowScope.() -> Unit,
): Unit = TODO()
