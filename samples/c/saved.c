/* Saves and loads deltas and progress (safetensors files), and writes the file that the personal model reads. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define DELTA "adabet-onnx/delta"
#define PROGRESS "adabet-onnx/progress"

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* A growing string; text is NULL after an allocation failed. */
typedef struct {
    char *text;
    size_t used, room;
} growing;

static bool reserve(growing *g, size_t more) {
    if (g->text != NULL && g->room - g->used <= more) {
        size_t room = 2 * (g->room + more);
        char *larger = realloc(g->text, room);
        if (larger == NULL) free(g->text);
        g->text = larger;
        g->room = room;
    }
    return g->text != NULL;
}

static void put(growing *g, const char *format, ...) AB_LIKE_PRINTF(2, 3);
static void put(growing *g, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (reserve(g, 200)) { /* longer than anything written this way */
        int length = vsnprintf(g->text + g->used, g->room - g->used, format, arguments);
        g->used += length > 0 ? (size_t)length : 0;
    }
    va_end(arguments);
}

static void put_string(growing *g, const char *text) {
    put(g, "\"");
    for (; *text != 0; text++) {
        if (*text == '"' || *text == '\\') put(g, "\\%c", *text);
        else if ((unsigned char)*text < 0x20) put(g, "\\u%04x", (unsigned)*text);
        else put(g, "%c", *text);
    }
    put(g, "\"");
}

static void put_pair(growing *g, const char *key, const char *value) {
    put_string(g, key);
    put(g, ":");
    put_string(g, value);
}

static void put_number(growing *g, const char *key, uint64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    put(g, ",");
    put_pair(g, key, text);
}

static void put_metadata(growing *g, const adabet_package *p, const ab_entry *entry, const ab_place *place,
                         const char *hash) {
    put(g, "{\"__metadata__\":{");
    put_pair(g, "format", place == NULL ? DELTA : PROGRESS);
    put(g, ",\"version\":\"1\",");
    put_pair(g, "model_sha256", p->model_hash);
    put(g, ",");
    put_pair(g, "entry", entry->name);
    put(g, ",");
    put_pair(g, "sha256", hash);
    if (place != NULL) {
        put(g, ",");
        put_pair(g, "package", p->hash);
        put_number(g, "epoch", place->epoch);
        put_number(g, "step", place->step);
        put_number(g, "seed", place->seed);
        put_number(g, "batch_size", place->batch_size);
    }
    put(g, "}");
}

static void put_tensors(growing *g, const ab_entry *entry, size_t count) {
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        const ab_value *value = &entry->tensors[i].value;
        put(g, ",");
        put_string(g, value->name);
        put(g, ":{\"dtype\":\"F32\",\"shape\":[");
        for (size_t d = 0; d < value->rank; d++) put(g, "%s%lld", d > 0 ? "," : "", (long long)value->shape[d]);
        put(g, "],\"data_offsets\":[%zu,%zu]}", at, at + value->bytes);
        at += value->bytes;
    }
    put(g, "}");
    while ((g->used + 8) % 64 != 0 && g->text != NULL) put(g, " ");
}

adabet_code ab_save(const adabet_package *p, const ab_entry *entry, size_t count, const char *memory,
                    const ab_place *place, const char *path, adabet_error *error) {
    char hex[SHA256_HEX];
    unsigned char length[8];
    sha256 hash;
    ab_writer writer;
    growing header = {malloc(1024), 0, 1024};
    ab_sha256_begin(&hash);
    for (size_t i = 0; i < count; i++)
        ab_sha256_add(&hash, memory + entry->tensors[i].offset, entry->tensors[i].value.bytes);
    ab_sha256_end(&hash, hex);
    put_metadata(&header, p, entry, place, hex);
    put_tensors(&header, entry, count);
    if (header.text == NULL) return ab_no_memory(error);
    for (size_t i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)header.used >> (8 * i));
    adabet_code code = ab_write_begin(&writer, path, error);
    if (code == ADABET_OK) {
        ab_write(&writer, length, sizeof length);
        ab_write(&writer, header.text, header.used);
        for (size_t i = 0; i < count; i++)
            ab_write(&writer, memory + entry->tensors[i].offset, entry->tensors[i].value.bytes);
        code = ab_write_end(&writer, error);
    }
    free(header.text);
    return code;
}

adabet_code adabet_save_delta(const adabet_model *model, const char *path, adabet_error *error) {
    if (model == NULL || path == NULL)
        return ab_fail(error, ADABET_USAGE, "adabet_save_delta needs a model and a path");
    const ab_entry *entry = model->package->entries + model->entry;
    const char *broken = ab_not_finite(entry, entry->kept_count, model->values);
    if (broken != NULL) return ab_fail(error, ADABET_NOT_FINITE, "'%.80s' is not finite", broken);
    return ab_save(model->package, entry, entry->kept_count, model->values, NULL, path, error);
}

adabet_code adabet_save_selected(const adabet_model *model, const char *path, adabet_error *error) {
    ab_writer writer;
    if (model == NULL || path == NULL)
        return ab_fail(error, ADABET_USAGE, "adabet_save_selected needs a model and a path");
    AB_TRY(ab_write_begin(&writer, path, error));
    ab_write(&writer, model->values, model->package->entries[model->entry].selected_bytes);
    return ab_write_end(&writer, error);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static adabet_code expect(const ab_safetensors *file, const char *path, const char *key, const char *expected,
                          adabet_error *error) {
    const char *found = ab_metadata(file, key);
    if (found == NULL || strcmp(found, expected) != 0)
        return ab_fail(error, ADABET_WRONG_MODEL, "%s: '%s' is %.80s; expected %.80s", path, key,
                       found != NULL ? found : "missing", expected);
    return ADABET_OK;
}

static adabet_code expect_number(const ab_safetensors *file, const char *path, const char *key, uint64_t *number,
                                 adabet_error *error) {
    const char *found = ab_metadata(file, key);
    size_t digits = found != NULL ? strlen(found) : 0;
    if (digits < 1 || digits > 18 || strspn(found, "0123456789") != digits)
        return ab_fail(error, ADABET_WRONG_FILE, "%s: '%s' is %.40s; expected a decimal number", path, key,
                       found != NULL ? found : "missing");
    *number = strtoull(found, NULL, 10);
    return ADABET_OK;
}

/* Checks the bytes after the header against the SHA-256 in it. */
static adabet_code check_hash(const ab_safetensors *file, const char *path, adabet_error *error) {
    char hex[SHA256_HEX];
    const char *expected = ab_metadata(file, "sha256");
    sha256 hash;
    ab_sha256_begin(&hash);
    ab_sha256_add(&hash, file->data, file->data_bytes);
    ab_sha256_end(&hash, hex);
    if (expected == NULL || strcmp(expected, hex) != 0)
        return ab_fail(error, ADABET_WRONG_HASH, "%s: its data has the SHA-256 %s; expected %.80s", path, hex,
                       expected != NULL ? expected : "one in its metadata");
    return ADABET_OK;
}

static adabet_code check_tensor(const ab_stored *found, const ab_value *value, const char *path, adabet_error *error) {
    bool same = found != NULL && strcmp(found->dtype, "F32") == 0 && found->shape->count == value->rank &&
                found->end - found->begin == value->bytes;
    const json *extent = same ? found->shape->first : NULL;
    for (size_t d = 0; same && d < value->rank; d++, extent = extent->next)
        same = extent->whole && extent->integer == value->shape[d];
    if (!same)
        return ab_fail(error, ADABET_WRONG_SHAPE, "%s: '%.80s' %s; expected float32 with %zu dimensions and %zu bytes",
                       path, value->name, found == NULL ? "is missing" : "has another data type or shape", value->rank,
                       value->bytes);
    return ADABET_OK;
}

static adabet_code take(const ab_safetensors *file, const adabet_package *p, const ab_entry *entry, const char *path,
                        char *memory, ab_place *place, adabet_error *error) {
    size_t count = place == NULL ? entry->kept_count : entry->tensor_count;
    AB_TRY(expect(file, path, "format", place == NULL ? DELTA : PROGRESS, error));
    AB_TRY(expect(file, path, "version", "1", error));
    AB_TRY(expect(file, path, "model_sha256", p->model_hash, error));
    AB_TRY(expect(file, path, "entry", entry->name, error));
    if (place != NULL) {
        AB_TRY(expect(file, path, "package", p->hash, error));
        AB_TRY(expect_number(file, path, "epoch", &place->epoch, error));
        AB_TRY(expect_number(file, path, "step", &place->step, error));
        AB_TRY(expect_number(file, path, "seed", &place->seed, error));
        AB_TRY(expect_number(file, path, "batch_size", &place->batch_size, error));
    }
    AB_TRY(check_hash(file, path, error));
    if (file->count != count)
        return ab_fail(error, ADABET_WRONG_SHAPE, "%s has %zu tensors; expected %zu", path, file->count, count);
    for (size_t i = 0; i < count; i++) {
        const ab_tensor *tensor = entry->tensors + i;
        const ab_stored *found = ab_stored_named(file, tensor->value.name);
        AB_TRY(check_tensor(found, &tensor->value, path, error));
        memcpy(memory + tensor->offset, file->data + found->begin, tensor->value.bytes);
    }
    const char *broken = ab_not_finite(entry, count, memory);
    if (broken != NULL) return ab_fail(error, ADABET_NOT_FINITE, "%s: '%.80s' is not finite", path, broken);
    return ADABET_OK;
}

static size_t data_bytes(const ab_entry *entry) {
    size_t bytes = 0;
    for (size_t i = 0; i < entry->tensor_count; i++) bytes += entry->tensors[i].value.bytes;
    return bytes;
}

adabet_code ab_restore(const adabet_package *p, const ab_entry *entry, const char *path, char *memory, ab_place *place,
                       adabet_error *error) {
    ab_safetensors file;
    AB_TRY(ab_safetensors_read(path, data_bytes(entry), &file, error));
    adabet_code code = take(&file, p, entry, path, memory, place, error);
    ab_safetensors_free(&file);
    return code;
}

/* The entry that a file belongs to, and whether it is a progress file. */
static adabet_code look_into(const adabet_package *p, const char *path, size_t *entry, bool *progress,
                             adabet_error *error) {
    ab_safetensors file;
    size_t most = 0;
    for (size_t i = 0; i < p->entry_count; i++)
        if (data_bytes(p->entries + i) > most) most = data_bytes(p->entries + i);
    AB_TRY(ab_safetensors_read(path, most, &file, error));
    const char *format = ab_metadata(&file, "format"), *name = ab_metadata(&file, "entry");
    adabet_code code = expect(&file, path, "model_sha256", p->model_hash, error);
    if (code == ADABET_OK && (name == NULL || !adabet_find_entry(p, name, entry)))
        code = ab_fail(error, ADABET_WRONG_MODEL, "%s is for the entry '%.80s', which the package does not have", path,
                       name != NULL ? name : "");
    *progress = format != NULL && strcmp(format, PROGRESS) == 0;
    ab_safetensors_free(&file);
    return code;
}

adabet_code adabet_load(adabet_package *package, const char *path, adabet_model **made, adabet_error *error) {
    size_t index = 0;
    bool progress = false;
    ab_place place;
    if (package == NULL || path == NULL || made == NULL)
        return ab_fail(error, ADABET_USAGE, "adabet_load needs a package, a path and a pointer for the model");
    *made = NULL;
    AB_TRY(look_into(package, path, &index, &progress, error));
    const ab_entry *entry = package->entries + index;
    const ab_tensor *last = entry->tensors + entry->tensor_count - 1;
    size_t bytes = last->offset + last->value.bytes;
    if (bytes < entry->selected_bytes) bytes = entry->selected_bytes;
    char *memory = ab_room(bytes);
    if (memory == NULL) return ab_no_memory(error);
    memset(memory, 0, bytes);
    adabet_code code = ab_restore(package, entry, path, memory, progress ? &place : NULL, error);
    if (code == ADABET_OK) code = ab_model_make(package, index, memory, made, error);
    free(memory);
    return code;
}
