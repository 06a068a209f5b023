/* Loss and accuracy on held-out samples. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

adabet_code ab_state_tensors(const adabet_package *p, const ab_entry *entry, size_t count, char *memory,
                             OrtValue **values, adabet_error *error) {
    for (size_t i = 0; i < count; i++)
        AB_TRY(ab_tensor_over(p, &entry->tensors[i].value, memory + entry->tensors[i].offset, 1, values + i, error));
    return ADABET_OK;
}

const char *ab_not_finite(const ab_entry *entry, size_t count, const char *memory) {
    for (size_t i = 0; i < count; i++) {
        const ab_tensor *tensor = entry->tensors + i;
        for (size_t k = 0; k < tensor->value.elements; k++) {
            float number;
            memcpy(&number, memory + tensor->offset + k * sizeof number, sizeof number);
            if (!isfinite(number)) return tensor->value.name;
        }
    }
    return NULL;
}

static adabet_code open_evaluation(adabet_package *p, const ab_entry *entry, ab_evaluation *e, adabet_error *error) {
    const ab_slot outs[] = {{entry->loss, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
                            {entry->logits, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT}};
    size_t begin = entry->boundary_count + 1;
    ab_slot *ins = calloc(begin + entry->kept_count, sizeof *ins);
    if (ins == NULL) return ab_no_memory(error);
    for (size_t i = 0; i < begin - 1; i++) {
        ins[i].name = entry->boundary[i].value.name;
        ins[i].dtype = entry->boundary[i].value.dtype;
    }
    ins[begin - 1].name = entry->labels;
    ins[begin - 1].dtype = p->labels.dtype;
    for (size_t i = 0; i < entry->kept_count; i++) {
        ins[begin + i].name = entry->tensors[i].input;
        ins[begin + i].dtype = entry->tensors[i].value.dtype;
    }
    adabet_code code = ab_graph_open(p, entry->evaluation, ins, begin + entry->kept_count, outs, 2, &e->graph, error);
    free(ins);
    return code;
}

adabet_code ab_evaluation_make(adabet_package *p, const ab_entry *entry, const adabet_data *data, size_t batch,
                               ab_evaluation *e, adabet_error *error) {
    size_t bytes;
    AB_TRY(ab_check_data(p, data, true, "held-out data", &e->samples, error));
    e->data = data;
    AB_TRY(ab_features_make(p, entry, data, e->samples, &e->features, error));
    AB_TRY(ab_batch_make(p, entry, batch, &e->batch, error));
    if (ab_product(batch, entry->logits_value.bytes, &bytes)) e->logits = ab_room(bytes);
    if (e->logits == NULL) return ab_no_memory(error);
    return open_evaluation(p, entry, e, error);
}

/* Counts the labels from here on that are not ignored, and those of them that have the largest logit. */
static void count_right(const adabet_package *p, const ab_entry *entry, const ab_evaluation *e, size_t samples,
                        size_t *right, size_t *counted) {
    const ab_value *logits = &entry->logits_value;
    size_t inner = 1, classes, labels = p->labels.elements;
    for (size_t d = entry->class_axis + 1; d < logits->rank; d++) inner *= (size_t)logits->shape[d];
    classes = (size_t)logits->shape[entry->class_axis];
    for (size_t i = 0; i < samples * labels; i++) {
        const char *row = e->logits + (i / inner * inner * classes + i % inner) * sizeof(float);
        int64_t label = ab_label(&p->labels, e->batch.arrays[e->batch.count - 1], i), best = 0;
        float highest = 0;
        if (p->has_ignored && label == p->ignored) continue;
        for (size_t c = 0; c < classes; c++) {
            float logit;
            memcpy(&logit, row + c * inner * sizeof logit, sizeof logit);
            if (c == 0 || logit > highest) {
                highest = logit;
                best = (int64_t)c;
            }
        }
        *right += best == label;
        ++*counted;
    }
}

static size_t labels_that_count(const adabet_package *p, const ab_evaluation *e, size_t samples) {
    size_t counted = 0, all = samples * p->labels.elements;
    if (!p->has_ignored || !ab_integer_labels(&p->labels)) return all;
    for (size_t i = 0; i < all; i++)
        counted += ab_label(&p->labels, e->batch.arrays[e->batch.count - 1], i) != p->ignored;
    return counted;
}

/* Evaluates a batch; its loss, weighted by the labels that count, is added. */
static adabet_code evaluate_part(ab_evaluation *e, const ab_entry *entry, OrtValue **ins, size_t first, size_t samples,
                                 double *sum, size_t *weight, adabet_error *error) {
    adabet_package *p = e->graph->package;
    float loss = 0;
    OrtValue *outs[2] = {NULL, NULL};
    adabet_code code = ab_batch_fill(p, entry, &e->batch, &e->features, e->data, NULL, first, samples, ins, error);
    size_t counted = labels_that_count(p, e, samples);
    if (code == ADABET_OK)
        code = ab_tensor_over(p, ab_number(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT), &loss, 1, outs, error);
    if (code == ADABET_OK) code = ab_tensor_over(p, &entry->logits_value, e->logits, samples, outs + 1, error);
    if (code == ADABET_OK) code = ab_graph_run(e->graph, ins, outs, error);
    if (counted > 0) *sum += (double)loss * (double)counted;
    *weight += counted;
    ab_tensors_free(p, outs, 2);
    ab_tensors_free(p, ins, e->batch.count);
    return code;
}

adabet_code ab_evaluate(ab_evaluation *e, const ab_entry *entry, OrtValue *const *state, double *loss, double *accuracy,
                        adabet_error *error) {
    adabet_package *p = e->graph->package;
    size_t right = 0, counted = 0, weight = 0;
    double sum = 0;
    bool classes =
        entry->class_axis != AB_COMPUTED && ab_integer_labels(&p->labels) &&
        entry->logits_value.elements / (size_t)entry->logits_value.shape[entry->class_axis] == p->labels.elements;
    OrtValue **ins = calloc(e->batch.count + entry->kept_count, sizeof *ins);
    if (ins == NULL) return ab_no_memory(error);
    memcpy(ins + e->batch.count, state, entry->kept_count * sizeof *ins);
    adabet_code code = ADABET_OK;
    for (size_t first = 0; first < e->samples && code == ADABET_OK; first += e->batch.size) {
        size_t samples = e->samples - first < e->batch.size ? e->samples - first : e->batch.size;
        code = evaluate_part(e, entry, ins, first, samples, &sum, &weight, error);
        if (code == ADABET_OK && classes) count_right(p, entry, e, samples, &right, &counted);
    }
    free(ins);
    *loss = weight > 0 ? sum / (double)weight : (double)NAN;
    *accuracy = counted > 0 ? (double)right / (double)counted : (double)NAN;
    return code;
}

void ab_evaluation_free(ab_evaluation *e) {
    ab_graph_close(e->graph);
    ab_features_free(&e->features);
    ab_batch_free(&e->batch);
    free(e->logits);
    memset(e, 0, sizeof *e);
}
