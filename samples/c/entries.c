/* Reads the entries of a package, that is, its choices of layers. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define MOST INT64_C(0x7fffffffffff)

static adabet_code describe_boundary(const adabet_package *p, ab_entry *entry, const json *item, adabet_error *error) {
    const json *list, *input;
    int64_t bytes;
    AB_TRY(ab_get(item, "boundary", JSON_ARRAY, entry->name, &list, error));
    if (list->count == 0)
        return ab_fail(error, ADABET_WRONG_FILE, "device.json: 'boundary' of %s is empty", entry->name);
    entry->boundary = calloc(list->count, sizeof *entry->boundary);
    if (entry->boundary == NULL) return ab_no_memory(error);
    for (const json *b = list->first; b != NULL; b = b->next) {
        ab_boundary *boundary = entry->boundary + entry->boundary_count++;
        ab_value *value = &boundary->value;
        AB_TRY(ab_get_text(b, "name", "a boundary", &value->name, error));
        AB_TRY(ab_get_value(b, "shape", true, value->name, value, error));
        AB_TRY(ab_get_size(b, "bytes", value->name, 1, MOST, &bytes, error));
        if ((uint64_t)bytes != value->bytes)
            return ab_fail(error, ADABET_WRONG_SHAPE, "device.json: 'bytes' of %.80s is %lld; its shape has %zu",
                           value->name, (long long)bytes, value->bytes);
        boundary->input = AB_COMPUTED;
        input = ab_json_get(b, "input");
        if (input != NULL && input->kind == JSON_STRING) {
            for (size_t i = 0; i < p->input_count; i++)
                if (strcmp(p->inputs[i].name, input->text) == 0) boundary->input = i;
            if (boundary->input == AB_COMPUTED || p->inputs[boundary->input].bytes != value->bytes ||
                p->inputs[boundary->input].dtype != value->dtype)
                return ab_fail(error, ADABET_WRONG_SHAPE, "device.json: %.80s is not the model's input '%.80s'",
                               value->name, input->text);
        } else if (entry->frozen == NULL) {
            return ab_fail(error, ADABET_WRONG_FILE, "device.json: no frozen graph of %.80s computes %.80s",
                           entry->name, value->name);
        }
    }
    return ADABET_OK;
}

static adabet_code describe_kind(const json *item, ab_tensor *tensor, adabet_error *error) {
    static const char *const kinds[] = {"parameter", "statistic", "optimizer"};
    const char *kind;
    AB_TRY(ab_get_text(item, "kind", tensor->value.name, &kind, error));
    for (int i = 0; i < 3; i++)
        if (strcmp(kind, kinds[i]) == 0) {
            tensor->kind = (ab_kind)i;
            return ADABET_OK;
        }
    return ab_fail(error, ADABET_WRONG_FILE,
                   "device.json: 'kind' of %.80s is '%.40s'; expected parameter, statistic or optimizer",
                   tensor->value.name, kind);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static adabet_code names_differ(const ab_entry *entry, adabet_error *error) {
    adabet_code code = ADABET_OK;
    const char **names = malloc((entry->tensor_count + 1) * sizeof *names);
    if (names == NULL) return ab_no_memory(error);
    for (size_t i = 0; i < entry->tensor_count; i++) names[i] = entry->tensors[i].value.name;
    qsort(names, entry->tensor_count, sizeof *names, by_name);
    for (size_t i = 1; i < entry->tensor_count && code == ADABET_OK; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            code = ab_fail(error, ADABET_WRONG_FILE, "device.json: %.80s has the tensor '%.80s' twice", entry->name,
                           names[i]);
    free(names);
    return code;
}

static adabet_code describe_tensor(const json *item, ab_tensor *tensor, size_t *end, adabet_error *error) {
    ab_value *value = &tensor->value;
    int64_t offset, bytes;
    AB_TRY(ab_get_text(item, "name", "a tensor", &value->name, error));
    AB_TRY(describe_kind(item, tensor, error));
    AB_TRY(ab_get_text(item, "input", value->name, &tensor->input, error));
    AB_TRY(ab_get_text(item, "output", value->name, &tensor->output, error));
    AB_TRY(ab_get_value(item, "shape", false, value->name, value, error));
    AB_TRY(ab_get_size(item, "offset", value->name, 0, MOST, &offset, error));
    AB_TRY(ab_get_size(item, "bytes", value->name, 1, MOST, &bytes, error));
    if (value->dtype != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
        return ab_fail(error, ADABET_WRONG_SHAPE, "device.json: %.80s is %s; expected float32", value->name,
                       value->dtype_name);
    if ((uint64_t)bytes != value->bytes)
        return ab_fail(error, ADABET_WRONG_SHAPE, "device.json: 'bytes' of %.80s is %lld; its shape has %zu",
                       value->name, (long long)bytes, value->bytes);
    if (offset % 64 != 0 || (uint64_t)offset < *end || (uint64_t)offset - *end >= 64)
        return ab_fail(error, ADABET_WRONG_SHAPE,
                       "device.json: %.80s begins at %lld; expected the next multiple of 64 from %zu on", value->name,
                       (long long)offset, *end);
    tensor->offset = (size_t)offset;
    *end = tensor->offset + value->bytes;
    return ADABET_OK;
}

static adabet_code describe_tensors(ab_entry *entry, const json *item, adabet_error *error) {
    const json *list;
    int64_t selected;
    size_t end = 0, kept_end = 0;
    AB_TRY(ab_get(item, "tensors", JSON_ARRAY, entry->name, &list, error));
    AB_TRY(ab_get_size(item, "selected_bytes", entry->name, 1, MOST, &selected, error));
    entry->selected_bytes = (size_t)selected;
    entry->tensors = calloc(list->count + 1, sizeof *entry->tensors);
    if (entry->tensors == NULL) return ab_no_memory(error);
    for (const json *t = list->first; t != NULL; t = t->next) {
        ab_tensor *tensor = entry->tensors + entry->tensor_count;
        AB_TRY(describe_tensor(t, tensor, &end, error));
        if (entry->tensor_count > 0 && tensor->kind < tensor[-1].kind)
            return ab_fail(error, ADABET_WRONG_FILE,
                           "device.json: tensors of %.80s are not parameters first, then statistics, "
                           "then the optimizer's",
                           entry->name);
        entry->tensor_count++;
        if (tensor->kind != AB_OPTIMIZER) {
            kept_end = end;
            entry->kept_count++;
        } else if (tensor->value.bytes > entry->selected_bytes) { /* checked before the memory is allocated */
            return ab_fail(error, ADABET_WRONG_SHAPE, "device.json: %.80s is larger than everything that is trained",
                           tensor->value.name);
        }
    }
    if (entry->kept_count == 0 || entry->tensors[0].kind != AB_PARAMETER)
        return ab_fail(error, ADABET_WRONG_FILE, "device.json: %.80s has no parameters", entry->name);
    if (entry->selected_bytes < kept_end || entry->selected_bytes - kept_end >= 64 ||
        entry->selected->bytes != entry->selected_bytes || entry->state->bytes != entry->selected_bytes)
        return ab_fail(error, ADABET_WRONG_SHAPE,
                       "device.json: 'selected_bytes' of %.80s is %zu; parameters and statistics end at %zu, %s has "
                       "%llu bytes and "
                       "%s %llu",
                       entry->name, entry->selected_bytes, kept_end, entry->selected->name,
                       (unsigned long long)entry->selected->bytes, entry->state->name,
                       (unsigned long long)entry->state->bytes);
    return names_differ(entry, error);
}

static adabet_code describe_memory(ab_entry *entry, const json *item, adabet_error *error) {
    const json *list;
    AB_TRY(ab_get(item, "memory", JSON_ARRAY, entry->name, &list, error));
    if (list->count == 0)
        return ab_fail(error, ADABET_WRONG_FILE, "device.json: 'memory' of %.80s is empty", entry->name);
    entry->memory = calloc(list->count + 1, sizeof *entry->memory);
    if (entry->memory == NULL) return ab_no_memory(error);
    for (const json *pair = list->first; pair != NULL; pair = pair->next) {
        const json *batch = pair->kind == JSON_ARRAY && pair->count == 2 ? pair->first : NULL;
        bool valid = batch != NULL && batch->whole && batch->integer > 0 && batch->integer <= MOST &&
                     batch->next->whole && batch->next->integer >= 0;
        if (!valid ||
            (entry->memory_count > 0 && (size_t)batch->integer <= entry->memory[entry->memory_count - 1].batch))
            return ab_fail(error, ADABET_WRONG_FILE,
                           "device.json: 'memory' of %.80s is not a list of [batch, bytes] with batches "
                           "ascending",
                           entry->name);
        entry->memory[entry->memory_count].batch = (size_t)batch->integer;
        entry->memory[entry->memory_count++].bytes = (uint64_t)batch->next->integer;
    }
    return ADABET_OK;
}

static adabet_code describe_names(const adabet_package *p, ab_entry *entry, const json *item, adabet_error *error) {
    const json *names, *axis = ab_json_get(item, "class_axis");
    int64_t place;
    AB_TRY(ab_get(item, "names", JSON_OBJECT, entry->name, &names, error));
    AB_TRY(ab_get_text(names, "labels", "'names'", &entry->labels, error));
    AB_TRY(ab_get_text(names, "learning_rate", "'names'", &entry->learning_rate, error));
    AB_TRY(ab_get_text(names, "step", "'names'", &entry->step_number, error));
    AB_TRY(ab_get_text(names, "loss", "'names'", &entry->loss, error));
    AB_TRY(ab_get_text(names, "logits", "'names'", &entry->logits, error));
    entry->logits_value = *ab_number(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    entry->logits_value.name = entry->logits;
    AB_TRY(ab_get_shape(item, "logits_shape", true, entry->name, &entry->logits_value, error));
    entry->class_axis = AB_COMPUTED;
    if (axis == NULL || axis->kind == JSON_NULL) return ADABET_OK;
    AB_TRY(ab_get_size(item, "class_axis", entry->name, 1, (int64_t)entry->logits_value.rank - 1, &place, error));
    entry->class_axis = (size_t)place;
    if (p->has_classes && entry->logits_value.shape[place] < p->classes)
        return ab_fail(error, ADABET_WRONG_SHAPE, "device.json: logits of %.80s have %lld classes; expected %lld",
                       entry->name, (long long)entry->logits_value.shape[place], (long long)p->classes);
    return ADABET_OK;
}

static adabet_code describe_layers(ab_entry *entry, const json *item, adabet_error *error) {
    int64_t trained;
    AB_TRY(ab_get(item, "layers", JSON_ARRAY, entry->name, &entry->layers, error));
    for (const json *layer = entry->layers->first; layer != NULL; layer = layer->next)
        if (layer->kind != JSON_STRING)
            return ab_fail(error, ADABET_WRONG_FILE, "device.json: 'layers' of %.80s has an item that is not a string",
                           entry->name);
    AB_TRY(ab_get_size(item, "trained", entry->name, 0, MOST, &trained, error));
    entry->trained = (uint64_t)trained;
    return ADABET_OK;
}

static adabet_code describe_entry(const adabet_package *p, ab_entry *entry, const json *item, adabet_error *error) {
    const struct {
        const char *key;
        const ab_file **file;
    } files[] = {{"step", &entry->step},    {"evaluation", &entry->evaluation}, {"prediction", &entry->prediction},
                 {"state", &entry->state},  {"model", &entry->model},           {"selected", &entry->selected},
                 {"frozen", &entry->frozen}};
    AB_TRY(ab_get_text(item, "name", "an entry", &entry->name, error));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        AB_TRY(ab_get_file(p, item, files[i].key, entry->name, files[i].file, error));
        if (*files[i].file == NULL && files[i].file != &entry->frozen && files[i].file != &entry->model)
            return ab_fail(error, ADABET_WRONG_FILE, "device.json: '%s' of %.80s is null", files[i].key, entry->name);
    }
    AB_TRY(describe_layers(entry, item, error));
    AB_TRY(describe_boundary(p, entry, item, error));
    AB_TRY(describe_names(p, entry, item, error));
    AB_TRY(describe_tensors(entry, item, error));
    return describe_memory(entry, item, error);
}

adabet_code ab_describe_entries(adabet_package *p, adabet_error *error) {
    const json *list;
    AB_TRY(ab_get(p->description, "entries", JSON_ARRAY, "device.json", &list, error));
    if (list->count == 0) return ab_fail(error, ADABET_WRONG_FILE, "device.json: 'entries' is empty");
    p->entries = calloc(list->count, sizeof *p->entries);
    if (p->entries == NULL) return ab_no_memory(error);
    for (const json *item = list->first; item != NULL; item = item->next) {
        ab_entry *entry = p->entries + p->entry_count++;
        AB_TRY(describe_entry(p, entry, item, error));
        for (const ab_entry *other = p->entries; other < entry; other++)
            if (strcmp(other->name, entry->name) == 0)
                return ab_fail(error, ADABET_WRONG_FILE, "device.json: two entries have the name '%.80s'", entry->name);
    }
    return ADABET_OK;
}

void ab_free_entries(adabet_package *p) {
    for (size_t i = 0; i < p->entry_count; i++) {
        free(p->entries[i].boundary);
        free(p->entries[i].tensors);
        free(p->entries[i].memory);
    }
    free(p->entries);
}
