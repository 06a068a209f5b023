package dev.adabet.onnx

/** A value of device.json with its path, checked before it is used. */
internal class Checked(private val value: Any?, private val where: String) {
    fun refuse(why: String): Nothing = fail(Problem.WRONG_FILE, "device.json: $where $why")

    private fun expected(what: String): Nothing = refuse("is ${kind(value)}; expected $what")

    val isNull: Boolean get() = value == null

    fun has(key: String): Boolean = value is Map<*, *> && value.containsKey(key)

    fun key(name: String): Checked {
        val map = value as? Map<*, *> ?: expected("an object")
        if (!map.containsKey(name)) refuse("has no '$name'")
        return Checked(map[name], if (where == TOP) "'$name'" else "'$name' of $where")
    }

    /** A key that may be missing or null. */
    fun optional(name: String): Checked? = if (has(name)) key(name).takeUnless { it.isNull } else null

    fun list(least: Int = 0): List<Checked> {
        val items = value as? List<*> ?: expected("an array")
        if (items.size < least)
            refuse(if (items.isEmpty()) "is empty" else "has ${items.size} items; expected at least $least")
        return items.mapIndexed { i, item ->
            val name = (item as? Map<*, *>)?.get("name") as? String
            Checked(item, if (name == null) "item $i of $where" else "'${shown(name)}' of $where")
        }
    }

    fun text(): String = value as? String ?: expected("a string")

    fun flag(): Boolean = value as? Boolean ?: expected("true or false")

    fun number(): Double {
        val found = (value as? Number)?.toDouble() ?: expected("a number")
        return if (found.isFinite()) found else refuse("is $found; expected a finite number")
    }

    /** As float32, which must be finite too. */
    fun float(): Float = number().toFloat().also { if (!it.isFinite()) refuse("is too large for a float32") }

    fun whole(least: Long, most: Long = MOST): Long {
        val found = value as? Number ?: expected("a number")
        if (found is Long && found in least..most) return found
        refuse("is ${shown(found.toString(), 40)}; expected a whole number from $least to $most")
    }

    fun int(least: Int, most: Int = Int.MAX_VALUE): Int = whole(least.toLong(), most.toLong()).toInt()

    fun sha256(): String = text().also { if (!HASH.matches(it)) refuse("is not a SHA-256 in hex") }

    /** A file name without folders, so that it cannot point outside the package. */
    fun fileName(): String = text().also {
        val plain = it.isNotEmpty() && it.length <= 200 && it[0] != '.' && it.none { c -> c in "/\\:" || c < ' ' }
        if (!plain) refuse("is '${shown(it)}', which is not a plain file name")
    }

    fun dtype(): DType = text().let { name ->
        DType.entries.firstOrNull { it.label == name } ?: refuse("is '${shown(name, 40)}', which is not supported")
    }

    /** A shape of at most 16 dimensions; a [batched] one begins with "N", which is dropped. */
    fun shape(batched: Boolean): List<Int> {
        val items = list()
        if (items.size > DIMENSIONS || (batched && items.isEmpty()))
            refuse("has ${items.size} dimensions; expected ${if (batched) 1 else 0} to $DIMENSIONS")
        if (batched && items[0].value != "N") refuse("does not begin with \"N\"")
        return (if (batched) items.drop(1) else items).map { it.extent() }
    }

    /** A shape in which any axis may be a multiple of the number of samples. */
    fun extents(): List<String> = list().map {
        if (it.value is String && EXTENT.matches(it.value)) it.value else it.extent().toString()
    }

    private fun extent(): Int {
        if (value !is Long || value < 1) refuse("is not a positive whole number")
        return if (value <= Int.MAX_VALUE) value.toInt() else refuse("is $value, which is too large")
    }

    /** Check that all are different. */
    fun unique(what: String, names: List<String>) {
        val twice = names.groupingBy { it }.eachCount().entries.firstOrNull { it.value > 1 }
        if (twice != null) refuse("has the $what '${shown(twice.key)}' twice")
    }

    internal companion object {
        const val TOP: String = "it"
        const val MOST: Long = 0x7fffffffffffL
        private const val DIMENSIONS = 16
        private val EXTENT = Regex("([1-9][0-9]{0,9}\\*)?N")
        private val HASH = Regex("[0-9a-f]{64}")

        private fun kind(value: Any?): String = when (value) {
            null -> "null"
            is Boolean -> value.toString()
            is Number -> "a number"
            is String -> "a string"
            is List<*> -> "an array"
            else -> "an object"
        }
    }
}
