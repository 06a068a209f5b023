/* Values of device.json, each checked before it is used. */
#include <math.h>
#include <string.h>

#include "internal.h"

static const char *const KINDS[] = {"null", "false", "true", "a number", "a string", "an array", "an object"};

adabet_code ab_get(const json *object, const char *key, json_kind kind, const char *where, const json **value,
                   adabet_error *error) {
    *value = ab_json_get(object, key);
    if (*value == NULL) return ab_fail(error, ADABET_WRONG_FILE, "device.json: %s has no '%s'", where, key);
    if ((*value)->kind != kind)
        return ab_fail(error, ADABET_WRONG_FILE, "device.json: '%s' of %s is %s; expected %s", key, where,
                       KINDS[(*value)->kind], KINDS[kind]);
    return ADABET_OK;
}

adabet_code ab_get_text(const json *object, const char *key, const char *where, const char **text,
                        adabet_error *error) {
    const json *value;
    AB_TRY(ab_get(object, key, JSON_STRING, where, &value, error));
    *text = value->text;
    return ADABET_OK;
}

adabet_code ab_get_size(const json *object, const char *key, const char *where, int64_t least, int64_t most,
                        int64_t *number, adabet_error *error) {
    const json *value;
    AB_TRY(ab_get(object, key, JSON_NUMBER, where, &value, error));
    if (!value->whole || value->integer < least || value->integer > most)
        return ab_fail(error, ADABET_WRONG_FILE,
                       "device.json: '%s' of %s is %.17g; expected a whole number from %lld to %lld", key, where,
                       value->number, (long long)least, (long long)most);
    *number = value->integer;
    return ADABET_OK;
}

adabet_code ab_get_file(const adabet_package *package, const json *object, const char *key, const char *where,
                        const ab_file **file, adabet_error *error) {
    const json *value = ab_json_get(object, key);
    const char *name;
    *file = NULL;
    if (value != NULL && value->kind == JSON_NULL) return ADABET_OK;
    AB_TRY(ab_get_text(object, key, where, &name, error));
    for (size_t i = 0; i < package->file_count; i++)
        if (strcmp(package->files[i].name, name) == 0) *file = package->files + i;
    if (*file == NULL)
        return ab_fail(error, ADABET_WRONG_FILE, "device.json: '%s' of %s is '%.80s', which is not in 'files'", key,
                       where, name);
    return ADABET_OK;
}

static const struct {
    const char *name;
    ONNXTensorElementDataType type;
    size_t width;
} DTYPES[] = {
    {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4},   {"float64", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, 8},
    {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 2}, {"int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8},
    {"int32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4},     {"int16", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, 2},
    {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, 1},       {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1},
    {"uint16", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, 2},   {"uint32", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, 4},
    {"uint64", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, 8},   {"bool", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, 1},
};

adabet_code ab_get_shape(const json *object, const char *key, bool batched, const char *where, ab_value *value,
                         adabet_error *error) {
    const json *shape;
    AB_TRY(ab_get(object, key, JSON_ARRAY, where, &shape, error));
    if (shape->count > ADABET_MOST_DIMENSIONS || (batched && shape->count == 0))
        return ab_fail(error, ADABET_WRONG_SHAPE, "device.json: '%s' of %s has %zu dimensions; expected %d to %d", key,
                       where, shape->count, batched ? 1 : 0, ADABET_MOST_DIMENSIONS);
    value->rank = 0;
    value->elements = 1;
    for (const json *d = shape->first; d != NULL; d = d->next) {
        if (batched && value->rank == 0) {
            if (d->kind != JSON_STRING || strcmp(d->text, "N") != 0)
                return ab_fail(error, ADABET_WRONG_SHAPE, "device.json: '%s' of %s does not begin with \"N\"", key,
                               where);
            value->shape[value->rank++] = 0;
            continue;
        }
        if (d->kind != JSON_NUMBER || !d->whole || d->integer < 1 || (uint64_t)d->integer > SIZE_MAX / 2)
            return ab_fail(error, ADABET_WRONG_SHAPE,
                           "device.json: dimension %zu of '%s' of %s is not a positive whole number", value->rank, key,
                           where);
        if (!ab_product(value->elements, (size_t)d->integer, &value->elements))
            return ab_fail(error, ADABET_WRONG_SHAPE, "device.json: '%s' of %s is too large", key, where);
        value->shape[value->rank++] = d->integer;
    }
    if (!ab_product(value->elements, value->width, &value->bytes) || value->bytes > SIZE_MAX / 2)
        return ab_fail(error, ADABET_WRONG_SHAPE, "device.json: '%s' of %s is too large", key, where);
    return ADABET_OK;
}

adabet_code ab_get_value(const json *object, const char *key, bool batched, const char *where, ab_value *value,
                         adabet_error *error) {
    AB_TRY(ab_get_text(object, "dtype", where, &value->dtype_name, error));
    value->width = 0;
    for (size_t i = 0; i < sizeof DTYPES / sizeof *DTYPES; i++)
        if (strcmp(DTYPES[i].name, value->dtype_name) == 0) {
            value->dtype = DTYPES[i].type;
            value->width = DTYPES[i].width;
        }
    if (value->width == 0)
        return ab_fail(error, ADABET_WRONG_SHAPE, "device.json: 'dtype' of %s is '%.40s', which is not supported",
                       where, value->dtype_name);
    return ab_get_shape(object, key, batched, where, value, error);
}
