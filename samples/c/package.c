/* Opens a package: reads device.json and checks every file against it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define MOST INT64_C(0x7fffffffffff)
#define DEVICE "device.json"

static bool is_hash(const char *text) {
    return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

static adabet_code describe_files(adabet_package *p, adabet_error *error) {
    const json *list;
    int64_t bytes;
    AB_TRY(ab_get(p->description, "files", JSON_ARRAY, DEVICE, &list, error));
    p->files = calloc(list->count + 1, sizeof *p->files);
    if (p->files == NULL) return ab_no_memory(error);
    for (const json *item = list->first; item != NULL; item = item->next) {
        ab_file *file = p->files + p->file_count;
        AB_TRY(ab_get_text(item, "name", "'files'", &file->name, error));
        AB_TRY(ab_get_text(item, "sha256", "'files'", &file->hash, error));
        AB_TRY(ab_get_size(item, "bytes", "'files'", 0, MOST, &bytes, error));
        file->bytes = (uint64_t)bytes;
        if (*file->name == 0 || *file->name == '.' || strpbrk(file->name, "/\\:") != NULL || strlen(file->name) > 200)
            return ab_fail(error, ADABET_WRONG_FILE, DEVICE ": '%.80s' of 'files' is not a plain file name", file->name);
        if (!is_hash(file->hash))
            return ab_fail(error, ADABET_WRONG_FILE, DEVICE ": 'sha256' of '%.80s' is not a SHA-256 in hex", file->name);
        for (size_t i = 0; i < p->file_count; i++)
            if (strcmp(p->files[i].name, file->name) == 0)
                return ab_fail(error, ADABET_WRONG_FILE, DEVICE ": '%.80s' is listed twice in 'files'", file->name);
        p->file_count++;
    }
    return ADABET_OK;
}

/* Whether a file is rewritten for a personal model, so that only its size can be checked. */
static bool is_personal(const adabet_package *p, const ab_file *file) {
    for (size_t e = 0; e < p->entry_count; e++)
        if (p->entries[e].selected == file) return true;
    return false;
}

static adabet_code check_file(const adabet_package *p, const ab_file *file, adabet_error *error) {
    char hex[SHA256_HEX], *path = ab_path(p->folder, file->name);
    uint64_t bytes;
    if (path == NULL) return ab_no_memory(error);
    adabet_code code = ab_hash_file(path, &bytes, hex, error);
    if (code == ADABET_OK && bytes != file->bytes)
        code = ab_fail(error, ADABET_WRONG_FILE, "%s has %llu bytes; expected %llu: copy the package again", path,
                       (unsigned long long)bytes, (unsigned long long)file->bytes);
    if (code == ADABET_OK && !is_personal(p, file) && strcmp(hex, file->hash) != 0)
        code = ab_fail(error, ADABET_WRONG_HASH, "%s has the SHA-256 %s; expected %s: copy the package again", path, hex,
                       file->hash);
    free(path);
    return code;
}

adabet_code ab_package_file(const adabet_package *package, const ab_file *file, char **data, adabet_error *error) {
    char hex[SHA256_HEX], *path = ab_path(package->folder, file->name);
    size_t bytes = 0;
    sha256 hash;
    *data = NULL;
    if (path == NULL) return ab_no_memory(error);
    adabet_code code = ab_read(path, (size_t)file->bytes, data, &bytes, error);
    if (code == ADABET_OK) {
        ab_sha256_begin(&hash);
        ab_sha256_add(&hash, *data, bytes);
        ab_sha256_end(&hash, hex);
        if (bytes != file->bytes || strcmp(hex, file->hash) != 0) {
            code = ab_fail(error, ADABET_WRONG_HASH, "%s was changed after the package was opened", path);
            free(*data);
            *data = NULL;
        }
    }
    free(path);
    return code;
}

/* A list of inputs or outputs. */
static adabet_code describe_values(const adabet_package *p, const char *key, ab_value **values, size_t *count,
                                   adabet_error *error) {
    const json *list;
    AB_TRY(ab_get(p->description, key, JSON_ARRAY, DEVICE, &list, error));
    if (list->count == 0) return ab_fail(error, ADABET_WRONG_FILE, DEVICE ": '%s' is empty", key);
    *values = calloc(list->count, sizeof **values);
    if (*values == NULL) return ab_no_memory(error);
    for (const json *item = list->first; item != NULL; item = item->next) {
        ab_value *value = *values + (*count)++;
        AB_TRY(ab_get_text(item, "name", key, &value->name, error));
        AB_TRY(ab_get_value(item, "shape", true, key, value, error));
    }
    return ADABET_OK;
}

static adabet_code describe_labels(adabet_package *p, adabet_error *error) {
    const json *labels, *classes, *ignored, *names = ab_json_get(p->description, "class_names");
    AB_TRY(ab_get(p->description, "labels", JSON_OBJECT, DEVICE, &labels, error));
    p->labels.name = "labels";
    AB_TRY(ab_get_value(labels, "shape", true, "'labels'", &p->labels, error));
    classes = ab_json_get(labels, "classes");
    p->has_classes = classes != NULL && classes->kind != JSON_NULL;
    if (p->has_classes) AB_TRY(ab_get_size(labels, "classes", "'labels'", 1, MOST, &p->classes, error));
    ignored = ab_json_get(labels, "ignore");
    p->has_ignored = ignored != NULL && ignored->kind != JSON_NULL;
    if (p->has_ignored) AB_TRY(ab_get_size(labels, "ignore", "'labels'", -MOST, MOST, &p->ignored, error));
    if (names == NULL || names->kind == JSON_NULL) return ADABET_OK;
    AB_TRY(ab_get(p->description, "class_names", JSON_ARRAY, DEVICE, &p->class_names, error));
    for (const json *name = p->class_names->first; name != NULL; name = name->next)
        if (name->kind != JSON_STRING)
            return ab_fail(error, ADABET_WRONG_FILE, DEVICE ": 'class_names' has an item that is not a string");
    return ADABET_OK;
}

static adabet_code describe_training(adabet_package *p, adabet_error *error) {
    const json *training, *rate;
    int64_t batch, epochs, seed;
    AB_TRY(ab_get(p->description, "training", JSON_OBJECT, DEVICE, &training, error));
    AB_TRY(ab_get(training, "learning_rate", JSON_NUMBER, "'training'", &rate, error));
    AB_TRY(ab_get_size(training, "batch_size", "'training'", 1, (int64_t)AB_MOST_SHUFFLED, &batch, error));
    AB_TRY(ab_get_size(training, "epochs", "'training'", 1, MOST, &epochs, error));
    AB_TRY(ab_get_size(training, "seed", "'training'", 0, UINT32_MAX, &seed, error));
    if (!isfinite(rate->number) || rate->number <= 0)
        return ab_fail(error, ADABET_WRONG_FILE, DEVICE ": 'learning_rate' is %g; expected a number above 0",
                       rate->number);
    p->learning_rate = rate->number;
    p->batch_size = (size_t)batch;
    p->epochs = (size_t)epochs;
    p->seed = (uint32_t)seed;
    return ADABET_OK;
}

static adabet_code describe_scoring(adabet_package *p, adabet_error *error) {
    const json *scoring = ab_json_get(p->description, "scoring"), *list;
    int64_t samples, points, subsets, seed, numbers, size;
    if (scoring == NULL || scoring->kind == JSON_NULL) return ADABET_OK;
    AB_TRY(ab_get(p->description, "scoring", JSON_OBJECT, DEVICE, &scoring, error));
    AB_TRY(ab_get_file(p, scoring, "file", "'scoring'", &p->scoring.file, error));
    AB_TRY(ab_get_size(scoring, "samples", "'scoring'", 8, 16384, &samples, error));
    AB_TRY(ab_get_size(scoring, "points", "'scoring'", 1, 16384, &points, error));
    AB_TRY(ab_get_size(scoring, "subsets", "'scoring'", 1, 1000000, &subsets, error));
    AB_TRY(ab_get_size(scoring, "seed", "'scoring'", 0, UINT32_MAX, &seed, error));
    AB_TRY(ab_get(scoring, "layers", JSON_ARRAY, "'scoring'", &list, error));
    p->scoring.samples = (size_t)samples;
    p->scoring.points = (size_t)points;
    p->scoring.subsets = (size_t)subsets;
    p->scoring.seed = (uint32_t)seed;
    p->scoring.layers = calloc(list->count + 1, sizeof *p->scoring.layers);
    if (p->scoring.layers == NULL) return ab_no_memory(error);
    for (const json *item = list->first; item != NULL; item = item->next) {
        ab_scored *layer = p->scoring.layers + p->scoring.layer_count++;
        AB_TRY(ab_get_text(item, "name", "a layer of 'scoring'", &layer->name, error));
        AB_TRY(ab_get_text(item, "output", layer->name, &layer->output.name, error));
        AB_TRY(ab_get_size(item, "numbers", layer->name, 1, INT32_MAX, &numbers, error));
        AB_TRY(ab_get_size(item, "size", layer->name, 1, MOST, &size, error));
        layer->output.elements = (size_t)numbers;
        layer->size = (double)size;
    }
    return ADABET_OK;
}

adabet_code ab_describe(adabet_package *p, adabet_error *error) {
    const char *format;
    const json *version = ab_json_get(p->description, "version"), *weights = ab_json_get(p->description, "weights");
    const json *forward = ab_json_get(p->description, "forward_batch");
    int64_t batch;
    const ab_file *file;
    if (p->description->kind != JSON_OBJECT) return ab_fail(error, ADABET_WRONG_FILE, DEVICE " is not an object");
    AB_TRY(ab_get_text(p->description, "format", DEVICE, &format, error));
    if (strcmp(format, "adabet-onnx/device") != 0)
        return ab_fail(error, ADABET_WRONG_FILE, DEVICE ": 'format' is '%.80s'; expected 'adabet-onnx/device'", format);
    if (version == NULL || version->kind != JSON_NUMBER || !version->whole || version->integer != 1)
        return ab_fail(error, ADABET_WRONG_FILE,
                       DEVICE ": 'version' is not 1, the only version that this program reads: use a newer program");
    AB_TRY(ab_get_text(p->description, "model", DEVICE, &p->model, error));
    AB_TRY(ab_get_text(p->description, "model_sha256", DEVICE, &p->model_hash, error));
    if (!is_hash(p->model_hash))
        return ab_fail(error, ADABET_WRONG_FILE, DEVICE ": 'model_sha256' is not a SHA-256 in hex");
    AB_TRY(describe_files(p, error));
    if (weights != NULL) AB_TRY(ab_get_file(p, p->description, "weights", DEVICE, &file, error));
    if (forward != NULL && forward->kind != JSON_NULL) {
        AB_TRY(ab_get_size(p->description, "forward_batch", DEVICE, 1, (int64_t)AB_MOST_SHUFFLED, &batch, error));
        p->forward_batch = (size_t)batch;
    }
    AB_TRY(describe_values(p, "inputs", &p->inputs, &p->input_count, error));
    AB_TRY(describe_values(p, "outputs", &p->outputs, &p->output_count, error));
    AB_TRY(describe_labels(p, error));
    AB_TRY(ab_describe_preprocessing(p, error));
    AB_TRY(describe_training(p, error));
    AB_TRY(describe_scoring(p, error));
    return ab_describe_entries(p, error);
}

static adabet_code read_description(adabet_package *p, adabet_error *error) {
    char *text, *path = ab_path(p->folder, DEVICE);
    size_t bytes = 0;
    sha256 hash;
    if (path == NULL) return ab_no_memory(error);
    adabet_code code = ab_read(path, JSON_MOST_BYTES, &text, &bytes, error);
    free(path);
    if (code != ADABET_OK) return code;
    ab_sha256_begin(&hash);
    ab_sha256_add(&hash, text, bytes);
    ab_sha256_end(&hash, p->hash);
    code = ab_json_parse(text, bytes, DEVICE, &p->description, error);
    free(text);
    return code;
}

static adabet_code open_package(adabet_package *p, const adabet_open_options *options, adabet_error *error) {
    const char *oldest;
    AB_TRY(read_description(p, error));
    AB_TRY(ab_describe(p, error));
    AB_TRY(ab_get_text(p->description, "oldest_onnxruntime", DEVICE, &oldest, error));
    for (size_t i = 0; i < p->file_count; i++) AB_TRY(check_file(p, p->files + i, error));
    return ab_runtime_open(p, options, oldest, error);
}

adabet_code adabet_open(const char *folder, const adabet_open_options *options, adabet_package **made,
                        adabet_error *error) {
    if (folder == NULL || made == NULL)
        return ab_fail(error, ADABET_USAGE, "adabet_open needs a folder and a pointer for the package");
    *made = NULL;
    adabet_package *p = calloc(1, sizeof *p);
    if (p == NULL) return ab_no_memory(error);
    p->folder = malloc(strlen(folder) + 1);
    adabet_code code = ADABET_NO_MEMORY;
    if (p->folder == NULL) {
        code = ab_no_memory(error);
    } else {
        memcpy(p->folder, folder, strlen(folder) + 1);
        code = open_package(p, options, error);
    }
    if (code == ADABET_OK) *made = p;
    else adabet_close(p);
    return code;
}

void adabet_close(adabet_package *package) {
    if (package == NULL) return;
    ab_runtime_close(package);
    ab_free_entries(package);
    free(package->scoring.layers);
    free(package->inputs);
    free(package->outputs);
    free(package->files);
    ab_json_free(package->description);
    free(package->folder);
    free(package);
}
