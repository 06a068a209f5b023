#include "json.h"

#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

typedef struct {
    const char *start, *at, *end;
    const char *what;
    adabet_error *error;
} reader;

static adabet_code wrong(const reader *r, const char *why) {
    return ab_fail(r->error, ADABET_WRONG_FILE, "%s is not valid JSON: %s at byte %zu", r->what, why,
                   (size_t)(r->at - r->start));
}

static void blank(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r')) r->at++;
}

static bool next_is(const reader *r, char c) {
    return r->at < r->end && *r->at == c;
}

static bool digit(const reader *r) {
    return r->at < r->end && *r->at >= '0' && *r->at <= '9';
}

size_t ab_utf8(const char *at, const char *end) {
    const unsigned char *b = (const unsigned char *)at;
    size_t length = *b < 0x80                 ? 1
                    : *b >= 0xc2 && *b < 0xe0 ? 2
                    : (*b & 0xf0) == 0xe0     ? 3
                    : *b >= 0xf0 && *b < 0xf5 ? 4
                                              : 0;
    if (length == 0 || (size_t)(end - at) < length) return 0;
    for (size_t i = 1; i < length; i++)
        if ((b[i] & 0xc0) != 0x80) return 0;
    if (length == 3 && ((b[0] == 0xe0 && b[1] < 0xa0) || (b[0] == 0xed && b[1] >= 0xa0))) return 0;
    if (length == 4 && ((b[0] == 0xf0 && b[1] < 0x90) || (b[0] == 0xf4 && b[1] >= 0x90))) return 0;
    return length;
}

static bool hex4(reader *r, uint32_t *code) {
    *code = 0;
    if (r->end - r->at < 4) return false;
    for (int i = 0; i < 4; i++) {
        char c = *r->at++;
        uint32_t value;
        if (c >= '0' && c <= '9') value = (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f') value = (uint32_t)(c - 'a') + 10;
        else if (c >= 'A' && c <= 'F') value = (uint32_t)(c - 'A') + 10;
        else return false;
        *code = *code << 4 | value;
    }
    return true;
}

/* Reads what follows the u of \uXXXX, and writes it as UTF-8. */
static char *escaped(reader *r, char *to) {
    uint32_t code, low;
    if (!hex4(r, &code) || code == 0) return NULL;
    if (code >= 0xd800 && code < 0xe000) {
        if (code >= 0xdc00 || r->end - r->at < 2 || r->at[0] != '\\' || r->at[1] != 'u') return NULL;
        r->at += 2;
        if (!hex4(r, &low) || low < 0xdc00 || low >= 0xe000) return NULL;
        code = 0x10000 + ((code - 0xd800) << 10 | (low - 0xdc00));
    }
    if (code < 0x80) {
        *to++ = (char)code;
        return to;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    *to++ = (char)((more == 1 ? 0xc0u : more == 2 ? 0xe0u : 0xf0u) | code >> (6 * more));
    while (more-- > 0) *to++ = (char)(0x80u | (code >> (6 * more) & 0x3f));
    return to;
}

static adabet_code string(reader *r, char **made) {
    static const char plain[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const char *scan = ++r->at;
    while (scan < r->end && *scan != '"') scan += *scan == '\\' && r->end - scan > 1 ? 2 : 1;
    if (scan >= r->end) return wrong(r, "an unterminated string");
    char *text = malloc((size_t)(scan - r->at) + 1), *to = text; /* no escape is shorter than its character */
    if (text == NULL) return ab_no_memory(r->error);
    while (to != NULL && !next_is(r, '"')) {
        size_t length = (unsigned char)*r->at < 0x20 ? 0 : ab_utf8(r->at, r->end);
        if (length == 0) {
            to = NULL;
        } else if (*r->at != '\\') {
            memcpy(to, r->at, length);
            to += length;
            r->at += length;
        } else {
            const char *which = r->at[1] == 0 ? NULL : strchr(plain, r->at[1]);
            r->at += 2;
            if (which != NULL) *to++ = meant[which - plain];
            else to = r->at[-1] == 'u' ? escaped(r, to) : NULL;
        }
    }
    if (to == NULL) {
        free(text);
        return wrong(r, "an invalid character or escape in a string");
    }
    *to = 0;
    r->at++;
    *made = text;
    return ADABET_OK;
}

static adabet_code number(reader *r, json *value) {
    const char *start = r->at;
    char copy[64];
    bool whole = true;
    if (next_is(r, '-')) r->at++;
    if (!digit(r)) return wrong(r, "an unknown value");
    if (next_is(r, '0')) r->at++;
    else
        while (digit(r)) r->at++;
    if (next_is(r, '.')) {
        whole = false;
        r->at++;
        if (!digit(r)) return wrong(r, "a number that ends with a decimal point");
        while (digit(r)) r->at++;
    }
    if (next_is(r, 'e') || next_is(r, 'E')) {
        whole = false;
        r->at++;
        if (next_is(r, '+') || next_is(r, '-')) r->at++;
        if (!digit(r)) return wrong(r, "a number with an incomplete exponent");
        while (digit(r)) r->at++;
    }
    size_t length = (size_t)(r->at - start);
    if (length >= sizeof copy) return wrong(r, "a number with too many digits");
    memcpy(copy, start, length);
    copy[length] = 0;
    errno = 0;
    value->integer = whole ? strtoll(copy, NULL, 10) : 0;
    value->whole = whole && errno == 0;
    char *point = strchr(copy, '.');
    if (point != NULL) *point = localeconv()->decimal_point[0]; /* strtod uses the locale's decimal point */
    value->kind = JSON_NUMBER;
    value->number = strtod(copy, NULL);
    return ADABET_OK;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Duplicate keys are ambiguous and therefore rejected. */
static adabet_code keys_differ(const reader *r, const json *object) {
    if (object->count < 2) return ADABET_OK;
    const char **keys = malloc(object->count * sizeof *keys);
    if (keys == NULL) return ab_no_memory(r->error);
    size_t i = 0, twice = 0;
    for (const json *v = object->first; v != NULL; v = v->next) keys[i++] = v->key;
    qsort(keys, i, sizeof *keys, by_text);
    for (size_t k = 1; k < i; k++)
        if (strcmp(keys[k - 1], keys[k]) == 0) twice = k;
    adabet_code code = twice == 0 ? ADABET_OK
                                  : ab_fail(r->error, ADABET_WRONG_FILE, "%s has the key '%.80s' twice in one object",
                                            r->what, keys[twice]);
    free(keys);
    return code;
}

static adabet_code parse(reader *r, int depth, json **made);

/* Arrays and objects. Items are linked to the value as they are read, so that a failure frees them too. */
static adabet_code container(reader *r, int depth, json *value) {
    char close = *r->at == '{' ? '}' : ']';
    json **last = &value->first;
    value->kind = close == '}' ? JSON_OBJECT : JSON_ARRAY;
    r->at++;
    blank(r);
    while (!next_is(r, close)) {
        char *key = NULL;
        if (value->count > 0) {
            if (!next_is(r, ',')) return wrong(r, "a missing comma or bracket");
            r->at++;
            blank(r);
        }
        if (close == '}') {
            if (!next_is(r, '"')) return wrong(r, "a missing key");
            AB_TRY(string(r, &key));
            blank(r);
            if (!next_is(r, ':')) {
                free(key);
                return wrong(r, "a missing colon");
            }
            r->at++;
        }
        adabet_code code = parse(r, depth + 1, last);
        if (*last != NULL) (*last)->key = key;
        else free(key);
        if (code != ADABET_OK) return code;
        last = &(*last)->next;
        value->count++;
        blank(r);
    }
    r->at++;
    return close == '}' ? keys_differ(r, value) : ADABET_OK;
}

static adabet_code parse(reader *r, int depth, json **made) {
    static const char *const words[] = {"null", "false", "true"};
    if (depth > JSON_MOST_DEPTH) return wrong(r, "values more than 32 deep");
    json *value = *made = calloc(1, sizeof *value);
    if (value == NULL) return ab_no_memory(r->error);
    blank(r);
    if (next_is(r, '{') || next_is(r, '[')) return container(r, depth, value);
    if (next_is(r, '"')) {
        value->kind = JSON_STRING;
        return string(r, &value->text);
    }
    for (int i = 0; i < 3; i++) {
        size_t length = strlen(words[i]);
        if ((size_t)(r->end - r->at) >= length && memcmp(r->at, words[i], length) == 0) {
            value->kind = (json_kind)i;
            r->at += length;
            return ADABET_OK;
        }
    }
    return number(r, value);
}

adabet_code ab_json_parse(const char *text, size_t bytes, const char *what, json **made, adabet_error *error) {
    reader r = {text, text, text + bytes, what, error};
    *made = NULL;
    if (bytes > JSON_MOST_BYTES)
        return ab_fail(error, ADABET_WRONG_FILE, "%s has %zu bytes; at most %zu are read", what, bytes,
                       JSON_MOST_BYTES);
    adabet_code code = parse(&r, 1, made);
    blank(&r);
    if (code == ADABET_OK && r.at != r.end) code = wrong(&r, "unexpected text after the value");
    if (code != ADABET_OK) {
        ab_json_free(*made);
        *made = NULL;
    }
    return code;
}

void ab_json_free(json *value) {
    while (value != NULL) { /* a loop, since the length is not limited; recursion only for the limited depth */
        json *next = value->next;
        ab_json_free(value->first);
        free(value->key);
        free(value->text);
        free(value);
        value = next;
    }
}

const json *ab_json_get(const json *object, const char *key) {
    if (object == NULL || object->kind != JSON_OBJECT) return NULL;
    for (const json *value = object->first; value != NULL; value = value->next)
        if (strcmp(value->key, key) == 0) return value;
    return NULL;
}
