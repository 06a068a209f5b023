/* Reads safetensors files from untrusted sources: everything is checked. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define MOST_HEADER JSON_MOST_BYTES

static int by_name(const void *a, const void *b) {
    return strcmp(((const ab_stored *)a)->name, ((const ab_stored *)b)->name);
}

static int by_place(const void *a, const void *b) {
    const ab_stored *one = *(const ab_stored *const *)a, *two = *(const ab_stored *const *)b;
    return (one->begin > two->begin) - (one->begin < two->begin);
}

static adabet_code read_tensor(const char *path, const json *item, ab_stored *tensor, size_t data_bytes,
                               adabet_error *error) {
    const json *dtype = ab_json_get(item, "dtype"), *offsets = ab_json_get(item, "data_offsets");
    tensor->name = item->key;
    tensor->shape = ab_json_get(item, "shape");
    const json *begin = offsets != NULL && offsets->kind == JSON_ARRAY && offsets->count == 2 ? offsets->first : NULL;
    if (dtype == NULL || dtype->kind != JSON_STRING || tensor->shape == NULL || tensor->shape->kind != JSON_ARRAY ||
        begin == NULL || !begin->whole || !begin->next->whole || begin->integer < 0 ||
        begin->next->integer < begin->integer || (uint64_t)begin->next->integer > data_bytes)
        return ab_fail(error, ADABET_WRONG_FILE, "%s: '%.80s' has no valid dtype, shape and offsets", path,
                       item->key);
    tensor->dtype = dtype->text;
    tensor->begin = (size_t)begin->integer;
    tensor->end = (size_t)begin->next->integer;
    return ADABET_OK;
}

/* Checks that tensors fill the data without gaps and without overlapping. */
static adabet_code check_places(const char *path, const ab_safetensors *file, adabet_error *error) {
    size_t at = 0;
    bool whole = true;
    const ab_stored **sorted = malloc((file->count + 1) * sizeof *sorted);
    if (sorted == NULL) return ab_no_memory(error);
    for (size_t i = 0; i < file->count; i++) sorted[i] = file->tensors + i;
    qsort(sorted, file->count, sizeof *sorted, by_place);
    for (size_t i = 0; i < file->count; i++) {
        whole = whole && sorted[i]->begin == at;
        at = sorted[i]->end;
    }
    free(sorted);
    if (!whole || at != file->data_bytes)
        return ab_fail(error, ADABET_WRONG_FILE, "%s: its tensors do not fill its %zu bytes of data", path,
                       file->data_bytes);
    return ADABET_OK;
}

static adabet_code check_metadata(const char *path, const ab_safetensors *file, adabet_error *error) {
    if (file->metadata == NULL) return ADABET_OK;
    for (const json *item = file->metadata->first; item != NULL; item = item->next)
        if (item->kind != JSON_STRING)
            return ab_fail(error, ADABET_WRONG_FILE, "%s: '%.80s' of its metadata is not a string", path, item->key);
    return file->metadata->kind == JSON_OBJECT
               ? ADABET_OK
               : ab_fail(error, ADABET_WRONG_FILE, "%s: its metadata is not an object", path);
}

static adabet_code read_header(const char *path, size_t bytes, ab_safetensors *file, adabet_error *error) {
    uint64_t length = 0;
    for (size_t i = 0; i < 8 && bytes >= 8; i++) length |= (uint64_t)(unsigned char)file->bytes[i] << (8 * i);
    if (bytes < 8 || length > MOST_HEADER || length > bytes - 8)
        return ab_fail(error, ADABET_WRONG_FILE, "%s is not a safetensors file: %zu bytes, with a header of %llu", path,
                       bytes, (unsigned long long)length);
    AB_TRY(ab_json_parse(file->bytes + 8, (size_t)length, path, &file->header, error));
    if (file->header->kind != JSON_OBJECT)
        return ab_fail(error, ADABET_WRONG_FILE, "%s: its header is not an object", path);
    file->data = file->bytes + 8 + length;
    file->data_bytes = bytes - 8 - (size_t)length;
    file->tensors = calloc(file->header->count + 1, sizeof *file->tensors);
    if (file->tensors == NULL) return ab_no_memory(error);
    for (const json *item = file->header->first; item != NULL; item = item->next) {
        if (strcmp(item->key, "__metadata__") == 0) file->metadata = item;
        else AB_TRY(read_tensor(path, item, file->tensors + file->count++, file->data_bytes, error));
    }
    AB_TRY(check_metadata(path, file, error));
    AB_TRY(check_places(path, file, error));
    qsort(file->tensors, file->count, sizeof *file->tensors, by_name);
    return ADABET_OK;
}

adabet_code ab_safetensors_read(const char *path, size_t most, ab_safetensors *file, adabet_error *error) {
    size_t bytes = 0;
    memset(file, 0, sizeof *file);
    adabet_code code = ab_read(path, most + MOST_HEADER, &file->bytes, &bytes, error);
    if (code == ADABET_OK) code = read_header(path, bytes, file, error);
    if (code != ADABET_OK) ab_safetensors_free(file);
    return code;
}

void ab_safetensors_free(ab_safetensors *file) {
    free(file->bytes);
    free(file->tensors);
    ab_json_free(file->header);
    memset(file, 0, sizeof *file);
}

const char *ab_metadata(const ab_safetensors *file, const char *key) {
    const json *value = ab_json_get(file->metadata, key);
    return value != NULL ? value->text : NULL;
}

const ab_stored *ab_stored_named(const ab_safetensors *file, const char *name) {
    ab_stored wanted = {0};
    wanted.name = name;
    return file->count > 0 ? bsearch(&wanted, file->tensors, file->count, sizeof wanted, by_name) : NULL;
}
