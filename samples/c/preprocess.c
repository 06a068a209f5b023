/* Converts raw numbers to the form of the model's input. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define WHERE "'preprocessing'"

/* One number for all channels, or one for each. */
static adabet_code describe_list(const json *object, const char *key, const json **list, adabet_error *error) {
    AB_TRY(ab_get(object, key, JSON_ARRAY, WHERE, list, error));
    bool valid = (*list)->count > 0;
    for (const json *number = (*list)->first; number != NULL; number = number->next)
        valid = valid && number->kind == JSON_NUMBER && isfinite(number->number);
    return valid
               ? ADABET_OK
               : ab_fail(error, ADABET_WRONG_FILE, "device.json: '%s' of " WHERE " is not a list of finite numbers", key);
}

adabet_code ab_describe_preprocessing(adabet_package *p, adabet_error *error) {
    const json *object = ab_json_get(p->description, "preprocessing"), *scale, *bgr = ab_json_get(object, "bgr");
    const json *axis = ab_json_get(object, "channel_axis");
    int64_t place;
    ab_preprocessing *to = &p->preprocessing;
    to->axis = AB_COMPUTED;
    if (object == NULL || object->kind == JSON_NULL) return ADABET_OK;
    AB_TRY(ab_get(p->description, "preprocessing", JSON_OBJECT, "device.json", &object, error));
    AB_TRY(ab_get(object, "scale", JSON_NUMBER, WHERE, &scale, error));
    AB_TRY(describe_list(object, "mean", &to->mean, error));
    AB_TRY(describe_list(object, "std", &to->std, error));
    for (const json *number = to->std->first; number != NULL; number = number->next)
        if (number->number == 0) return ab_fail(error, ADABET_WRONG_FILE, "device.json: 'std' of " WHERE " has a 0");
    if (axis != NULL && axis->kind != JSON_NULL) {
        AB_TRY(ab_get_size(object, "channel_axis", WHERE, 1, ADABET_MOST_DIMENSIONS - 1, &place, error));
        to->axis = (size_t)place;
    }
    to->scale = (float)scale->number;
    to->bgr = bgr != NULL && bgr->kind == JSON_TRUE;
    to->there = true;
    return ADABET_OK;
}

static adabet_code spread(const json *list, const char *key, size_t channels, float *to, adabet_error *error) {
    if (list->count != 1 && list->count != channels)
        return ab_fail(error, ADABET_WRONG_SHAPE, "'%s' of " WHERE " has %zu numbers; expected 1 or %zu", key,
                       list->count, channels);
    const json *number = list->first;
    for (size_t c = 0; c < channels; c++) {
        to[c] = (float)number->number;
        if (list->count > 1) number = number->next;
    }
    return ADABET_OK;
}

/* Samples of channels x inner numbers, one after another. */
static void apply(const ab_preprocessing *how, float *numbers, size_t blocks, size_t channels, size_t inner,
                  const float *mean, const float *std) {
    for (size_t b = 0; b < blocks; b++, numbers += channels * inner) {
        for (size_t i = 0; how->bgr && channels == 3 && i < inner; i++) {
            float first = numbers[i];
            numbers[i] = numbers[2 * inner + i];
            numbers[2 * inner + i] = first;
        }
        for (size_t i = 0; i < channels * inner; i++) {
            float scaled = numbers[i] * how->scale, centred = scaled - mean[i / inner];
            numbers[i] = centred / std[i / inner];
        }
    }
}

adabet_code adabet_preprocess(const adabet_package *package, size_t input, float *numbers, size_t bytes,
                              adabet_error *error) {
    if (package == NULL || numbers == NULL || input >= package->input_count)
        return ab_fail(error, ADABET_USAGE, "adabet_preprocess needs a package, one of its inputs, and numbers");
    const ab_value *value = package->inputs + input;
    const ab_preprocessing *how = &package->preprocessing;
    if (bytes % value->bytes != 0)
        return ab_fail(error, ADABET_WRONG_SHAPE, "there are %zu bytes; a sample of '%.80s' has %zu", bytes,
                       value->name, value->bytes);
    if (!how->there || value->dtype != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return ADABET_OK;
    if (how->axis != AB_COMPUTED && how->axis >= value->rank)
        return ab_fail(error, ADABET_WRONG_SHAPE, "'channel_axis' is %zu; '%.80s' has %zu dimensions", how->axis,
                       value->name, value->rank);
    size_t channels = how->axis != AB_COMPUTED ? (size_t)value->shape[how->axis] : 1,
           inner = how->axis != AB_COMPUTED ? 1 : value->elements;
    for (size_t d = how->axis; d != AB_COMPUTED && d + 1 < value->rank; d++) inner *= (size_t)value->shape[d + 1];
    float *mean = calloc(channels, sizeof *mean), *std = calloc(channels, sizeof *std);
    adabet_code code =
        mean == NULL || std == NULL ? ab_no_memory(error) : spread(how->mean, "mean", channels, mean, error);
    if (code == ADABET_OK) code = spread(how->std, "std", channels, std, error);
    if (code == ADABET_OK)
        apply(how, numbers, bytes / sizeof *numbers / (channels * inner), channels, inner, mean, std);
    free(mean);
    free(std);
    return code;
}
