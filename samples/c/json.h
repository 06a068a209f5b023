/* A strict JSON reader (RFC 8259) for untrusted text: UTF-8 only, with limits on size and depth. */
#ifndef ADABET_JSON_H
#define ADABET_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "adabet.h"

#define JSON_MOST_BYTES ((size_t)1 << 24)
#define JSON_MOST_DEPTH 32

typedef enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } json_kind;

typedef struct json json;
struct json {
    json_kind kind;
    bool whole;      /* a number without fraction and exponent that fits into an int64_t */
    int64_t integer; /* that number */
    double number;
    size_t count; /* number of values in an array or object */
    json *first;  /* the first of them; the others follow through next */
    json *next;
    char *key;  /* if it is in an object */
    char *text; /* of a string */
};

/* what is the name of the text in messages. Free with ab_json_free. */
adabet_code ab_json_parse(const char *text, size_t bytes, const char *what, json **made, adabet_error *error);
void ab_json_free(json *value);

/* The value of a key; NULL if there is none or object is not an object. */
const json *ab_json_get(const json *object, const char *key);

/* Length in bytes of the UTF-8 sequence at at, which is before end; 0 if it is invalid. */
size_t ab_utf8(const char *at, const char *end);

#endif
