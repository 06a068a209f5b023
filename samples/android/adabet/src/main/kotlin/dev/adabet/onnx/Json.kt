package dev.adabet.onnx

import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException

/**
 * A strict JSON reader for untrusted text, the same on Android and on the desktop: it must be UTF-8, without duplicate
 * keys, nested at most 32 deep, with numbers of fewer than 64 digits.
 *
 * Values are Map, List, String, Boolean, null, and Long or Double: a number without point and exponent is a Long if it
 * fits.
 */
internal class Json private constructor(private val text: String, private val what: String) {
    private var at = 0

    private fun wrong(why: String): Nothing =
        fail(Problem.WRONG_FILE, "$what is not valid JSON: $why at character $at")

    private fun peek(): Char = if (at < text.length) text[at] else '\u0000'

    private fun blank() {
        while (at < text.length && text[at] in " \t\n\r") at++
    }

    private fun take(expected: Char) {
        blank()
        if (peek() != expected) wrong("no '$expected'")
        at++
    }

    private fun value(depth: Int): Any? {
        if (depth > DEEPEST) wrong("values more than $DEEPEST deep")
        blank()
        return when (val first = peek()) {
            '{' -> members(depth)
            '[' -> items(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> if (first == '-' || first in '0'..'9') number() else wrong("an unknown value")
        }
    }

    private fun word(word: String, value: Any?): Any? {
        if (!text.startsWith(word, at)) wrong("an unknown value")
        at += word.length
        return value
    }

    private fun members(depth: Int): Map<String, Any?> {
        val made = LinkedHashMap<String, Any?>()
        at++
        blank()
        if (peek() == '}') return made.also { at++ }
        while (true) {
            blank()
            if (peek() != '"') wrong("a key that is not a string")
            val key = string()
            if (made.containsKey(key)) wrong("the key '${shown(key)}' twice")
            take(':')
            made[key] = value(depth + 1)
            blank()
            if (peek() == '}') return made.also { at++ }
            take(',')
        }
    }

    private fun items(depth: Int): List<Any?> {
        val made = ArrayList<Any?>()
        at++
        blank()
        if (peek() == ']') return made.also { at++ }
        while (true) {
            made.add(value(depth + 1))
            blank()
            if (peek() == ']') return made.also { at++ }
            take(',')
        }
    }

    private fun string(): String {
        val made = StringBuilder()
        at++
        while (true) {
            if (at >= text.length) wrong("an unterminated string")
            when (val c = text[at++]) {
                '"' -> return made.toString()
                '\\' -> made.append(escaped())
                else -> if (c < ' ') wrong("an invalid character in a string") else made.append(c)
            }
        }
    }

    private fun escaped(): String {
        if (at >= text.length) wrong("an unterminated string")
        val c = text[at]
        at++
        val plain = "\"\\/bfnrt".indexOf(c)
        if (plain >= 0) return "\"\\/\b\u000C\n\r\t"[plain].toString()
        val high = if (c == 'u') hex() else wrong("an invalid escape in a string")
        if (!high.isSurrogate() && high != '\u0000') return high.toString()
        if (!high.isHighSurrogate() || !text.startsWith("\\u", at)) wrong("an invalid escape in a string")
        at += 2
        val low = hex()
        return if (low.isLowSurrogate()) "$high$low" else wrong("an invalid escape in a string")
    }

    private fun hex(): Char {
        if (text.length - at < 4) wrong("an unterminated string")
        val digits = text.substring(at, at + 4)
        if (!digits.all { it in "0123456789abcdefABCDEF" }) wrong("an invalid escape in a string")
        at += 4
        return digits.toInt(16).toChar()
    }

    private fun digits(why: String) {
        if (peek() !in '0'..'9') wrong(why)
        while (peek() in '0'..'9') at++
    }

    private fun number(): Number {
        val start = at
        if (peek() == '-') at++
        if (peek() == '0') at++ else digits("an unknown value")
        val whole = at
        if (peek() == '.') {
            at++
            digits("a number that ends with a decimal point")
        }
        if (peek() == 'e' || peek() == 'E') {
            at++
            if (peek() == '+' || peek() == '-') at++
            digits("a number with an incomplete exponent")
        }
        if (at - start > MOST_DIGITS) wrong("a number with too many digits")
        val digits = text.substring(start, at)
        return (if (at == whole) digits.toLongOrNull() else null) ?: digits.toDouble()
    }

    internal companion object {
        const val MOST_BYTES: Int = 1 shl 24
        private const val DEEPEST = 32
        private const val MOST_DIGITS = 63

        /** @param what name of the file for messages */
        fun parse(bytes: ByteBuffer, what: String): Any? {
            val text = try {
                Charsets.UTF_8.newDecoder().decode(bytes.duplicate()).toString()
            } catch (error: CharacterCodingException) {
                throw DeviceException(Problem.WRONG_FILE, "$what is not valid JSON: it is not UTF-8", error)
            }
            val reader = Json(text, what)
            val value = reader.value(0)
            reader.blank()
            if (reader.at < text.length) reader.wrong("unexpected text after the value")
            return value
        }

        /** Encodes a string as JSON. */
        fun quoted(text: String): String = buildString {
            append('"')
            for (c in text) {
                when {
                    c == '"' || c == '\\' -> append('\\').append(c)
                    c < ' ' -> append("\\u%04x".format(c.code))
                    else -> append(c)
                }
            }
            append('"')
        }
    }
}
