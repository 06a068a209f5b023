#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define ALIGNED 64

/* Names of files and tensors are untrusted: whatever they contain, a message is one line of valid UTF-8. */
static void make_plain(char *text) {
    char *end = text + strlen(text);
    while (text < end) {
        size_t length = ab_utf8(text, end);
        if (length == 0) *text = '?'; /* for example, a character cut off at the end of the message */
        else if ((unsigned char)*text < 0x20) *text = ' ';
        text += length > 0 ? length : 1;
    }
}

adabet_code ab_fail(adabet_error *error, adabet_code code, const char *format, ...) {
    if (error != NULL) {
        va_list arguments;
        va_start(arguments, format);
        error->code = code;
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
        make_plain(error->message);
    }
    return code;
}

adabet_code ab_no_memory(adabet_error *error) {
    return ab_fail(error, ADABET_NO_MEMORY, "there is not enough memory");
}

const char *adabet_code_name(adabet_code code) {
    static const char *const names[] = {"ok",          "usage",      "wrong file", "wrong hash", "wrong shape",
                                        "wrong label", "not finite", "no memory",  "storage",    "wrong model",
                                        "too few",     "cancelled",  "runtime"};
    size_t i = (size_t)code;
    return i < sizeof names / sizeof *names ? names[i] : "unknown";
}

bool ab_product(size_t a, size_t b, size_t *product) {
    if (a != 0 && b > SIZE_MAX / a) return false;
    *product = a * b;
    return true;
}

void *ab_room(size_t bytes) {
    void *made = NULL;
    if (bytes > SIZE_MAX / 2 || posix_memalign(&made, ALIGNED, bytes + ALIGNED) != 0) return NULL;
    return made;
}
