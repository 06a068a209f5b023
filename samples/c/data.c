/* Checks of the caller's data. */
#include <math.h>
#include <string.h>

#include "internal.h"

bool ab_integer_labels(const ab_value *labels) {
    return labels->dtype == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 || labels->dtype == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
}

int64_t ab_label(const ab_value *labels, const char *data, size_t place) {
    int64_t wide;
    int32_t narrow;
    if (labels->dtype == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) {
        memcpy(&wide, data + place * sizeof wide, sizeof wide);
        return wide;
    }
    memcpy(&narrow, data + place * sizeof narrow, sizeof narrow);
    return narrow;
}

static adabet_code check_array(const adabet_array *array, const ab_value *value, const char *what, size_t *samples,
                               adabet_error *error) {
    if (array->data == NULL)
        return ab_fail(error, ADABET_USAGE, "%s: the array for '%.80s' is missing", what, value->name);
    if (array->bytes % value->bytes != 0)
        return ab_fail(error, ADABET_WRONG_SHAPE,
                       "%s: '%.80s' has %zu bytes; a sample (%zu of %s) has %zu: expected a multiple of that",
                       what, value->name, array->bytes, value->elements, value->dtype_name, value->bytes);
    *samples = array->bytes / value->bytes;
    return ADABET_OK;
}

static adabet_code check_labels(const adabet_package *p, const char *data, size_t count, const char *what,
                                adabet_error *error) {
    bool integer = ab_integer_labels(&p->labels);
    for (size_t i = 0; i < count; i++) {
        if (integer) {
            int64_t label = ab_label(&p->labels, data, i);
            if (!p->has_classes || (p->has_ignored && label == p->ignored)) continue;
            if (label < 0 || label >= p->classes)
                return ab_fail(error, ADABET_WRONG_LABEL, "%s: label %zu is %lld; expected 0 to %lld", what, i,
                               (long long)label, (long long)p->classes - 1);
        } else if (p->labels.dtype == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
            float label;
            memcpy(&label, data + i * sizeof label, sizeof label);
            if (!isfinite(label))
                return ab_fail(error, ADABET_WRONG_LABEL, "%s: label %zu is %g; expected a finite number", what, i,
                               (double)label);
        }
    }
    return ADABET_OK;
}

adabet_code ab_check_data(const adabet_package *p, const adabet_data *data, bool labels, const char *what,
                          size_t *samples, adabet_error *error) {
    size_t count = 0;
    if (data == NULL || data->inputs == NULL || data->input_count != p->input_count)
        return ab_fail(error, ADABET_USAGE, "%s: there are %zu input arrays; the model takes %zu", what,
                       data == NULL || data->inputs == NULL ? (size_t)0 : data->input_count, p->input_count);
    for (size_t i = 0; i < p->input_count; i++) {
        AB_TRY(check_array(data->inputs + i, p->inputs + i, what, &count, error));
        if (i == 0) *samples = count;
        if (count != *samples)
            return ab_fail(error, ADABET_WRONG_SHAPE, "%s: '%.80s' has %zu samples; '%.80s' has %zu", what,
                           p->inputs[i].name, count, p->inputs[0].name, *samples);
    }
    if (*samples == 0) return ab_fail(error, ADABET_TOO_FEW, "%s: there are no samples", what);
    if (!labels) return ADABET_OK;
    AB_TRY(check_array(&data->labels, &p->labels, what, &count, error));
    if (count != *samples)
        return ab_fail(error, ADABET_WRONG_SHAPE, "%s: there are labels for %zu samples, but %zu samples", what, count,
                       *samples);
    return check_labels(p, data->labels.data, count * p->labels.elements, what, error);
}
