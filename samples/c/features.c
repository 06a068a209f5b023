/* The outputs of the frozen graph, stored for each sample, and batches of them. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* Inputs and outputs of one run of the frozen graph. */
typedef struct {
    ab_graph *graph;
    ab_slot *ins, *outs;
    OrtValue **fed, **given;
    size_t out_count;
} frozen_run;

static adabet_code open_frozen(adabet_package *p, const ab_entry *entry, frozen_run *run, adabet_error *error) {
    run->ins = calloc(p->input_count, sizeof *run->ins);
    run->outs = calloc(entry->boundary_count, sizeof *run->outs);
    run->fed = calloc(p->input_count, sizeof *run->fed);
    run->given = calloc(entry->boundary_count, sizeof *run->given);
    if (run->ins == NULL || run->outs == NULL || run->fed == NULL || run->given == NULL) return ab_no_memory(error);
    for (size_t i = 0; i < p->input_count; i++) {
        run->ins[i].name = p->inputs[i].name;
        run->ins[i].dtype = p->inputs[i].dtype;
    }
    for (size_t i = 0; i < entry->boundary_count; i++) {
        const ab_boundary *boundary = entry->boundary + i;
        if (boundary->input != AB_COMPUTED) continue;
        run->outs[run->out_count].name = boundary->value.name;
        run->outs[run->out_count++].dtype = boundary->value.dtype;
    }
    return ab_graph_open(p, entry->frozen, run->ins, p->input_count, run->outs, run->out_count, &run->graph, error);
}

static void close_frozen(frozen_run *run) {
    ab_graph_close(run->graph);
    free(run->ins);
    free(run->outs);
    free(run->fed);
    free(run->given);
}

/* Runs one sample; the results are written directly to where they are stored. */
static adabet_code freeze_one(adabet_package *p, const ab_entry *entry, frozen_run *run, const adabet_data *data,
                              size_t sample, ab_features *features, adabet_error *error) {
    adabet_code code = ADABET_OK;
    size_t out = 0;
    for (size_t i = 0; i < p->input_count && code == ADABET_OK; i++) {
        const ab_value *value = p->inputs + i;
        const char *from = (const char *)data->inputs[i].data + sample * value->bytes;
        code = ab_tensor_over(p, value, (void *)(uintptr_t)from, 1, run->fed + i, error); /* only read */
    }
    for (size_t i = 0; i < entry->boundary_count && code == ADABET_OK; i++) {
        const ab_value *value = &entry->boundary[i].value;
        if (entry->boundary[i].input != AB_COMPUTED) continue;
        code = ab_tensor_over(p, value, features->made[i] + sample * value->bytes, 1, run->given + out++, error);
    }
    if (code == ADABET_OK) code = ab_graph_run(run->graph, run->fed, run->given, error);
    ab_tensors_free(p, run->fed, p->input_count);
    ab_tensors_free(p, run->given, run->out_count);
    return code;
}

static adabet_code make(adabet_package *p, const ab_entry *entry, const adabet_data *data, ab_features *features,
                        frozen_run *run, adabet_error *error) {
    bool computed = false;
    features->arrays = calloc(entry->boundary_count, sizeof *features->arrays);
    features->made = calloc(entry->boundary_count, sizeof *features->made);
    if (features->arrays == NULL || features->made == NULL) return ab_no_memory(error);
    for (size_t i = 0; i < entry->boundary_count; i++) {
        const ab_boundary *boundary = entry->boundary + i;
        size_t bytes;
        if (boundary->input != AB_COMPUTED) {
            features->arrays[i] = data->inputs[boundary->input].data;
            continue;
        }
        computed = true;
        if (ab_product(features->samples, boundary->value.bytes, &bytes)) features->made[i] = ab_room(bytes);
        if (features->made[i] == NULL)
            return ab_fail(error, ADABET_NO_MEMORY,
                           "there is not enough memory for the features of %zu samples (%zu bytes each): "
                           "take fewer",
                           features->samples, boundary->value.bytes);
        features->arrays[i] = features->made[i];
    }
    if (!computed) return ADABET_OK;
    AB_TRY(open_frozen(p, entry, run, error));
    for (size_t sample = 0; sample < features->samples; sample++)
        AB_TRY(freeze_one(p, entry, run, data, sample, features, error));
    return ADABET_OK;
}

adabet_code ab_features_make(adabet_package *p, const ab_entry *entry, const adabet_data *data, size_t samples,
                             ab_features *features, adabet_error *error) {
    frozen_run run = {0};
    memset(features, 0, sizeof *features);
    features->count = entry->boundary_count;
    features->samples = samples;
    adabet_code code = make(p, entry, data, features, &run, error);
    close_frozen(&run);
    if (code != ADABET_OK) ab_features_free(features);
    return code;
}

void ab_features_free(ab_features *features) {
    for (size_t i = 0; features->made != NULL && i < features->count; i++) free(features->made[i]);
    free(features->made);
    free(features->arrays);
    memset(features, 0, sizeof *features);
}

/* ---- batches ----------------------------------------------------------------------------------------------------- */

static const ab_value *array_value(const adabet_package *p, const ab_entry *entry, size_t i) {
    return i < entry->boundary_count ? &entry->boundary[i].value : &p->labels;
}

adabet_code ab_batch_make(const adabet_package *p, const ab_entry *entry, size_t size, ab_batch *batch,
                          adabet_error *error) {
    size_t bytes;
    batch->count = entry->boundary_count + 1;
    batch->size = size;
    batch->arrays = calloc(batch->count, sizeof *batch->arrays);
    if (batch->arrays == NULL) return ab_no_memory(error);
    for (size_t i = 0; i < batch->count; i++) {
        if (ab_product(size, array_value(p, entry, i)->bytes, &bytes)) batch->arrays[i] = ab_room(bytes);
        if (batch->arrays[i] == NULL)
            return ab_fail(error, ADABET_NO_MEMORY, "there is not enough memory for batches of %zu samples", size);
    }
    return ADABET_OK;
}

void ab_batch_free(ab_batch *batch) {
    for (size_t i = 0; batch->arrays != NULL && i < batch->count; i++) free(batch->arrays[i]);
    free(batch->arrays);
    memset(batch, 0, sizeof *batch);
}

adabet_code ab_batch_fill(const adabet_package *p, const ab_entry *entry, ab_batch *batch, const ab_features *features,
                          const adabet_data *data, const uint32_t *order, size_t first, size_t samples,
                          OrtValue **values, adabet_error *error) {
    for (size_t i = 0; i < batch->count; i++) {
        const ab_value *value = array_value(p, entry, i);
        const char *from = i < entry->boundary_count ? features->arrays[i] : data->labels.data;
        for (size_t k = 0; k < samples; k++) {
            size_t sample = order != NULL ? order[first + k] : first + k;
            memcpy(batch->arrays[i] + k * value->bytes, from + sample * value->bytes, value->bytes);
        }
        AB_TRY(ab_tensor_over(p, value, batch->arrays[i], samples, values + i, error));
    }
    return ADABET_OK;
}
