/* Models, that is, entries with trained values; predictions; and the properties of a package. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

adabet_code ab_model_make(adabet_package *package, size_t entry, const char *values, adabet_model **made,
                          adabet_error *error) {
    size_t bytes = package->entries[entry].selected_bytes;
    adabet_model *model = calloc(1, sizeof *model);
    *made = NULL;
    if (model == NULL || (model->values = ab_room(bytes)) == NULL) {
        free(model);
        return ab_no_memory(error);
    }
    model->package = package;
    model->entry = entry;
    if (values != NULL) memcpy(model->values, values, bytes);
    else memset(model->values, 0, bytes);
    *made = model;
    return ADABET_OK;
}

adabet_code adabet_initial(adabet_package *package, size_t entry, adabet_model **made, adabet_error *error) {
    char *values;
    if (package == NULL || made == NULL || entry >= package->entry_count)
        return ab_fail(error, ADABET_USAGE,
                       "adabet_initial needs a package, one of its entries, and a pointer for the model");
    *made = NULL;
    AB_TRY(ab_package_file(package, package->entries[entry].state, &values, error));
    adabet_code code = ab_model_make(package, entry, values, made, error);
    free(values);
    return code;
}

void adabet_model_free(adabet_model *model) {
    if (model == NULL) return;
    ab_graph_close(model->graph);
    free(model->values);
    free(model);
}

size_t adabet_model_entry(const adabet_model *model) {
    return model->entry;
}

/* ---- predictions ------------------------------------------------------------------------------------------------- */

typedef struct {
    adabet_model *model;
    adabet_package *package;
    const ab_entry *entry;
    const adabet_room *rooms;
    OrtValue **ins, **outs; /* inputs and tensors; requested outputs */
    size_t *wanted, wanted_count;
} prediction;

static adabet_code check_rooms(prediction *r, size_t samples, adabet_error *error) {
    const adabet_package *p = r->package;
    size_t bytes;
    r->wanted = calloc(p->output_count, sizeof *r->wanted);
    if (r->wanted == NULL) return ab_no_memory(error);
    for (size_t i = 0; i < p->output_count; i++) {
        if (r->rooms[i].data == NULL) continue;
        if (!ab_product(samples, p->outputs[i].bytes, &bytes) || r->rooms[i].bytes != bytes)
            return ab_fail(error, ADABET_WRONG_SHAPE,
                           "'%.80s' of %zu samples needs %zu bytes each; there is room for %zu bytes",
                           p->outputs[i].name, samples, p->outputs[i].bytes, r->rooms[i].bytes);
        r->wanted[r->wanted_count++] = i;
    }
    if (r->wanted_count == 0) return ab_fail(error, ADABET_USAGE, "adabet_predict got no buffer for any output");
    return ADABET_OK;
}

/* The graph is opened with all outputs, since the next call may request others. */
static adabet_code open_graph(prediction *r, adabet_error *error) {
    const adabet_package *p = r->package;
    size_t count = p->input_count, kept = r->entry->kept_count;
    ab_slot *ins = calloc(count + kept, sizeof *ins), *outs = calloc(p->output_count, sizeof *outs);
    adabet_code code = ins == NULL || outs == NULL ? ab_no_memory(error) : ADABET_OK;
    if (code == ADABET_OK) {
        for (size_t i = 0; i < count; i++) {
            ins[i].name = p->inputs[i].name;
            ins[i].dtype = p->inputs[i].dtype;
        }
        for (size_t i = 0; i < kept; i++) {
            ins[count + i].name = r->entry->tensors[i].input;
            ins[count + i].dtype = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        }
        for (size_t i = 0; i < p->output_count; i++) {
            outs[i].name = p->outputs[i].name;
            outs[i].dtype = p->outputs[i].dtype;
        }
        code = ab_graph_open(r->package, r->entry->prediction, ins, count + kept, outs, p->output_count,
                             &r->model->graph, error);
    }
    free(ins);
    free(outs);
    return code;
}

static adabet_code predict_part(prediction *r, const adabet_data *data, size_t first, size_t samples,
                                adabet_error *error) {
    adabet_package *p = r->package;
    adabet_code code = ADABET_OK;
    size_t next = 0;
    for (size_t i = 0; i < p->input_count && code == ADABET_OK; i++) {
        const char *from = (const char *)data->inputs[i].data + first * p->inputs[i].bytes;
        code =
            ab_tensor_over(p, p->inputs + i, (void *)(uintptr_t)from, samples, r->ins + i, error); /* only read */
    }
    for (size_t i = 0; i < p->output_count && code == ADABET_OK; i++) {
        if (next == r->wanted_count || r->wanted[next] != i) continue; /* allocated by ONNX Runtime, and released */
        code = ab_tensor_over(p, p->outputs + i, (char *)r->rooms[i].data + first * p->outputs[i].bytes, samples,
                              r->outs + i, error);
        next++;
    }
    if (code == ADABET_OK) code = ab_graph_run(r->model->graph, r->ins, r->outs, error);
    ab_tensors_free(p, r->ins, p->input_count);
    ab_tensors_free(p, r->outs, p->output_count);
    return code;
}

static adabet_code predict(prediction *r, const adabet_data *data, adabet_error *error) {
    adabet_package *p = r->package;
    size_t samples, batch = p->forward_batch > 0 ? p->forward_batch : p->batch_size;
    AB_TRY(ab_check_data(p, data, false, "data", &samples, error));
    AB_TRY(check_rooms(r, samples, error));
    if (r->model->graph == NULL) AB_TRY(open_graph(r, error));
    r->ins = calloc(p->input_count + r->entry->kept_count, sizeof *r->ins);
    r->outs = calloc(p->output_count, sizeof *r->outs);
    if (r->ins == NULL || r->outs == NULL) return ab_no_memory(error);
    AB_TRY(ab_state_tensors(p, r->entry, r->entry->kept_count, r->model->values, r->ins + p->input_count, error));
    for (size_t first = 0; first < samples; first += batch)
        AB_TRY(predict_part(r, data, first, samples - first < batch ? samples - first : batch, error));
    return ADABET_OK;
}

adabet_code adabet_predict(adabet_model *model, const adabet_data *data, const adabet_room *outputs,
                           adabet_error *error) {
    prediction r = {0};
    if (model == NULL || outputs == NULL)
        return ab_fail(error, ADABET_USAGE, "adabet_predict needs a model and buffers for outputs");
    r.model = model;
    r.package = model->package;
    r.entry = model->package->entries + model->entry;
    r.rooms = outputs;
    adabet_code code = predict(&r, data, error);
    if (r.ins != NULL) ab_tensors_free(r.package, r.ins + r.package->input_count, r.entry->kept_count);
    free(r.ins);
    free(r.outs);
    free(r.wanted);
    return code;
}

/* ---- properties -------------------------------------------------------------------------------------------------- */

const char *adabet_model_name(const adabet_package *package) {
    return package->model;
}

const char *adabet_runtime_version(const adabet_package *package) {
    return package->ort_version;
}

static adabet_value told(const ab_value *value) {
    adabet_value made = {0};
    made.name = value->name;
    made.dtype = value->dtype_name;
    memcpy(made.shape, value->shape, sizeof made.shape);
    made.dimensions = value->rank;
    made.bytes = value->bytes;
    return made;
}

size_t adabet_input_count(const adabet_package *package) {
    return package->input_count;
}

size_t adabet_output_count(const adabet_package *package) {
    return package->output_count;
}

adabet_value adabet_input(const adabet_package *package, size_t input) {
    return told(package->inputs + input);
}

adabet_value adabet_output(const adabet_package *package, size_t output) {
    return told(package->outputs + output);
}

adabet_value adabet_labels(const adabet_package *package) {
    return told(&package->labels);
}

size_t adabet_class_count(const adabet_package *package) {
    return package->has_classes ? (size_t)package->classes : 0;
}

static const char *text_at(const json *list, size_t place) {
    const json *value = list != NULL ? list->first : NULL;
    while (value != NULL && place-- > 0) value = value->next;
    return value != NULL ? value->text : NULL;
}

const char *adabet_class_name(const adabet_package *package, size_t class_index) {
    return text_at(package->class_names, class_index);
}

size_t adabet_entry_count(const adabet_package *package) {
    return package->entry_count;
}

adabet_entry adabet_entry_at(const adabet_package *package, size_t entry) {
    const ab_entry *of = package->entries + entry;
    adabet_entry made = {of->name, of->layers->count, of->trained, of->selected_bytes};
    return made;
}

const char *adabet_entry_layer(const adabet_package *package, size_t entry, size_t layer) {
    return text_at(package->entries[entry].layers, layer);
}

bool adabet_find_entry(const adabet_package *package, const char *name, size_t *entry) {
    for (size_t i = 0; i < package->entry_count; i++)
        if (strcmp(package->entries[i].name, name) == 0) {
            *entry = i;
            return true;
        }
    return false;
}
