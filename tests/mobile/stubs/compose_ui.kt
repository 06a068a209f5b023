package androidx.compose.ui

interface Modifier {
    companion object : Modifier
}

class Alignment {
    interface Vertical

    companion object {
        val CenterVertically: Vertical = TODO()
    }
}
