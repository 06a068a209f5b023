/* Training: steps in the documented order. Two sets of values alternate as input and output.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

typedef struct {
    adabet_package *package;
    const ab_entry *entry;
    const adabet_data *data;
    const adabet_fit_options *options;
    size_t samples, steps; /* steps per epoch */
    ab_features features;
    ab_evaluation held_out;
    ab_batch batch;
    uint32_t *order;
    char *memory[2], *logits;
    char *kept; /* parameters and statistics after the last complete epoch */
    bool has_kept;
    OrtValue **tensors[2];
    ab_graph *graph;
    OrtValue **ins, **outs;
    size_t now; /* the set that holds the current values */
    float rate, loss;
    ab_place place;
} training;

static adabet_code check_options(training *t, adabet_error *error) {
    const adabet_fit_options *o = t->options;
    if (o->entry >= t->package->entry_count)
        return ab_fail(error, ADABET_USAGE, "there is no entry %zu; the package has %zu", o->entry,
                       t->package->entry_count);
    if (o->batch_size < 1 || o->batch_size > AB_MOST_SHUFFLED || o->epochs < 1)
        return ab_fail(error, ADABET_USAGE, "a batch size of %zu and %zu epochs; expected at least 1 of both",
                       o->batch_size, o->epochs);
    if (!isfinite(o->learning_rate) || o->learning_rate <= 0)
        return ab_fail(error, ADABET_USAGE, "a learning rate of %g; expected a number above 0", o->learning_rate);
    t->entry = t->package->entries + o->entry;
    AB_TRY(ab_check_data(t->package, t->data, true, "data", &t->samples, error));
    if (t->samples > AB_MOST_SHUFFLED)
        return ab_fail(error, ADABET_USAGE, "there are %zu samples; at most %zu can be shuffled", t->samples,
                       AB_MOST_SHUFFLED);
    t->steps = (t->samples + o->batch_size - 1) / o->batch_size;
    t->rate = (float)o->learning_rate;
    t->place.seed = o->seed;
    t->place.batch_size = o->batch_size;
    return ADABET_OK;
}

static size_t state_bytes(const ab_entry *entry) {
    const ab_tensor *last = entry->tensors + entry->tensor_count - 1;
    size_t end = last->offset + last->value.bytes;
    return end > entry->selected_bytes ? end : entry->selected_bytes;
}

/* Initial values, or those of the progress file if there is one. */
static adabet_code load_values(training *t, adabet_error *error) {
    const ab_entry *entry = t->entry;
    size_t bytes = state_bytes(entry);
    char *initial;
    for (int i = 0; i < 2; i++) {
        if ((t->memory[i] = ab_room(bytes)) == NULL) return ab_no_memory(error);
        memset(t->memory[i], 0, bytes); /* the optimizer's tensors start at 0, and gaps between tensors stay 0 */
    }
    t->kept = ab_room(entry->selected_bytes);
    if (t->kept == NULL) return ab_no_memory(error);
    AB_TRY(ab_package_file(t->package, entry->state, &initial, error));
    memcpy(t->memory[0], initial, entry->selected_bytes);
    free(initial);
    if (t->options->progress == NULL || !ab_exists(t->options->progress)) return ADABET_OK;
    ab_place wanted = t->place;
    AB_TRY(ab_restore(t->package, entry, t->options->progress, t->memory[0], &t->place, error));
    if (t->place.seed != wanted.seed || t->place.batch_size != wanted.batch_size || t->place.epoch < 1 ||
        t->place.epoch > UINT64_MAX / t->steps || t->place.step != t->place.epoch * t->steps)
        return ab_fail(
            error, ADABET_WRONG_MODEL,
            "%s belongs to another training run: seed %llu, batch size %llu, %llu steps after epoch %llu; expected "
            "seed %llu, batch size %llu, %zu steps per epoch. Remove it to start again",
            t->options->progress, (unsigned long long)t->place.seed, (unsigned long long)t->place.batch_size,
            (unsigned long long)t->place.step, (unsigned long long)t->place.epoch, (unsigned long long)wanted.seed,
            (unsigned long long)wanted.batch_size, t->steps);
    memcpy(t->kept, t->memory[0], entry->selected_bytes);
    t->has_kept = true;
    return ADABET_OK;
}

/* Slots: boundary, labels, learning rate, step number, tensors. Outputs: loss, logits, tensors. */
static adabet_code open_step(training *t, adabet_error *error) {
    const ab_entry *entry = t->entry;
    size_t count = entry->tensor_count, data = entry->boundary_count, begin = data + 3;
    ab_slot *ins = calloc(begin + count, sizeof *ins), *outs = calloc(2 + count, sizeof *outs);
    adabet_code code = ins == NULL || outs == NULL ? ab_no_memory(error) : ADABET_OK;
    if (code == ADABET_OK) {
        for (size_t i = 0; i < data; i++) {
            ins[i].name = entry->boundary[i].value.name;
            ins[i].dtype = entry->boundary[i].value.dtype;
        }
        const ab_slot more[] = {{entry->labels, t->package->labels.dtype},
                                {entry->learning_rate, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
                                {entry->step_number, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64}};
        memcpy(ins + data, more, sizeof more);
        outs[0].name = entry->loss;
        outs[1].name = entry->logits;
        for (size_t i = 0; i < count; i++) {
            ins[begin + i].name = entry->tensors[i].input;
            ins[begin + i].dtype = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
            outs[2 + i].name = entry->tensors[i].output;
        }
        for (size_t i = 0; i < 2 + count; i++) outs[i].dtype = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        code = ab_graph_open(t->package, entry->step, ins, begin + count, outs, 2 + count, &t->graph, error);
    }
    free(ins);
    free(outs);
    return code;
}

static adabet_code make_room(training *t, adabet_error *error) {
    const ab_entry *entry = t->entry;
    size_t bytes, batch = t->options->batch_size < t->samples ? t->options->batch_size : t->samples;
    AB_TRY(ab_batch_make(t->package, entry, batch, &t->batch, error));
    if (ab_product(batch, entry->logits_value.bytes, &bytes)) t->logits = ab_room(bytes);
    t->order = malloc(t->samples * sizeof *t->order);
    t->ins = calloc(entry->boundary_count + 3 + entry->tensor_count, sizeof *t->ins);
    t->outs = calloc(2 + entry->tensor_count, sizeof *t->outs);
    if (t->logits == NULL || t->order == NULL || t->ins == NULL || t->outs == NULL) return ab_no_memory(error);
    for (int i = 0; i < 2; i++) {
        t->tensors[i] = calloc(entry->tensor_count, sizeof *t->tensors[i]);
        if (t->tensors[i] == NULL) return ab_no_memory(error);
        AB_TRY(ab_state_tensors(t->package, entry, entry->tensor_count, t->memory[i], t->tensors[i], error));
    }
    return ADABET_OK;
}

/* One step; the two sets are swapped after it. */
static adabet_code run_step(training *t, size_t first, size_t samples, adabet_error *error) {
    const ab_entry *entry = t->entry;
    adabet_package *p = t->package;
    int64_t number = (int64_t)(t->place.step + 1);
    size_t data = t->batch.count, count = entry->tensor_count;
    adabet_code code =
        ab_batch_fill(p, entry, &t->batch, &t->features, t->data, t->order, first, samples, t->ins, error);
    if (code == ADABET_OK)
        code = ab_tensor_over(p, ab_number(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT), &t->rate, 1, t->ins + data, error);
    if (code == ADABET_OK)
        code = ab_tensor_over(p, ab_number(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64), &number, 1, t->ins + data + 1, error);
    if (code == ADABET_OK)
        code = ab_tensor_over(p, ab_number(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT), &t->loss, 1, t->outs, error);
    if (code == ADABET_OK) code = ab_tensor_over(p, &entry->logits_value, t->logits, samples, t->outs + 1, error);
    memcpy(t->ins + data + 2, t->tensors[t->now], count * sizeof *t->ins);
    memcpy(t->outs + 2, t->tensors[1 - t->now], count * sizeof *t->outs);
    if (code == ADABET_OK) code = ab_graph_run(t->graph, t->ins, t->outs, error);
    ab_tensors_free(p, t->ins, data + 2);
    ab_tensors_free(p, t->outs, 2);
    if (code != ADABET_OK) return code;
    t->now = 1 - t->now;
    t->place.step++;
    if (!isfinite(t->loss))
        return ab_fail(error, ADABET_NOT_FINITE,
                       "the loss is %g in step %llu: use a learning rate below %g, and check the data",
                       (double)t->loss, (unsigned long long)t->place.step, t->options->learning_rate);
    return ADABET_OK;
}

static adabet_code tell(const training *t, const adabet_progress *progress, adabet_error *error) {
    if (t->options->watch != NULL && t->options->watch(progress, t->options->user) != 0)
        return ab_fail(error, ADABET_CANCELLED, "training was stopped in epoch %zu, after step %llu", progress->epoch,
                       (unsigned long long)progress->step);
    return ADABET_OK;
}

static adabet_code end_epoch(training *t, adabet_progress *progress, adabet_error *error) {
    const ab_entry *entry = t->entry;
    const char *broken = ab_not_finite(entry, entry->tensor_count, t->memory[t->now]);
    if (broken != NULL)
        return ab_fail(error, ADABET_NOT_FINITE,
                       "'%.80s' is not finite after epoch %zu: use a learning rate below %g", broken,
                       progress->epoch, t->options->learning_rate);
    t->place.epoch = progress->epoch;
    memcpy(t->kept, t->memory[t->now], entry->selected_bytes);
    t->has_kept = true;
    if (t->options->progress != NULL)
        AB_TRY(
            ab_save(t->package, entry, entry->tensor_count, t->memory[t->now], &t->place, t->options->progress, error));
    if (t->held_out.graph != NULL)
        AB_TRY(ab_evaluate(&t->held_out, entry, t->tensors[t->now], &progress->held_out_loss,
                           &progress->held_out_accuracy, error));
    progress->epoch_done = true;
    return tell(t, progress, error);
}

static adabet_code run_epoch(training *t, size_t epoch, adabet_error *error) {
    adabet_progress progress = {0};
    double sum = 0;
    progress.epoch = epoch;
    progress.epochs = t->options->epochs;
    progress.steps = t->steps;
    progress.held_out_loss = progress.held_out_accuracy = (double)NAN;
    ab_shuffle(t->order, t->samples, t->options->seed, (uint32_t)epoch);
    for (size_t first = 0; first < t->samples; first += t->batch.size) {
        size_t samples = t->samples - first < t->batch.size ? t->samples - first : t->batch.size;
        AB_TRY(run_step(t, first, samples, error));
        sum += (double)t->loss * (double)samples;
        progress.step = t->place.step;
        progress.loss = (double)t->loss;
        AB_TRY(tell(t, &progress, error));
    }
    progress.loss = sum / (double)t->samples;
    return end_epoch(t, &progress, error);
}

static adabet_code train(training *t, adabet_error *error) {
    AB_TRY(check_options(t, error));
    AB_TRY(load_values(t, error));
    AB_TRY(ab_features_make(t->package, t->entry, t->data, t->samples, &t->features, error));
    if (t->options->held_out != NULL)
        AB_TRY(ab_evaluation_make(t->package, t->entry, t->options->held_out, t->options->batch_size, &t->held_out,
                                  error));
    AB_TRY(make_room(t, error));
    AB_TRY(open_step(t, error));
    for (size_t epoch = (size_t)t->place.epoch + 1; epoch <= t->options->epochs; epoch++)
        AB_TRY(run_epoch(t, epoch, error));
    return ADABET_OK;
}

static void end(training *t) {
    ab_graph_close(t->graph);
    for (int i = 0; i < 2; i++) {
        if (t->entry != NULL) ab_tensors_free(t->package, t->tensors[i], t->entry->tensor_count);
        free(t->tensors[i]);
        free(t->memory[i]);
    }
    ab_features_free(&t->features);
    ab_evaluation_free(&t->held_out);
    ab_batch_free(&t->batch);
    free(t->order);
    free(t->logits);
    free(t->kept);
    free(t->ins);
    free(t->outs);
}

adabet_code adabet_fit(adabet_package *package, const adabet_data *data, const adabet_fit_options *options,
                       adabet_model **made, adabet_error *error) {
    training t = {0};
    if (package == NULL || options == NULL || made == NULL)
        return ab_fail(error, ADABET_USAGE, "adabet_fit needs a package, options and a pointer for the model");
    *made = NULL;
    t.package = package;
    t.data = data;
    t.options = options;
    adabet_code code = train(&t, error);
    if (t.has_kept && (code == ADABET_OK || code == ADABET_CANCELLED || code == ADABET_NOT_FINITE)) {
        adabet_code kept = ab_model_make(package, options->entry, t.kept, made, code == ADABET_OK ? error : NULL);
        if (code == ADABET_OK) code = kept;
    }
    end(&t);
    return code;
}

adabet_fit_options adabet_fit_defaults(const adabet_package *package) {
    adabet_fit_options options = {0};
    options.learning_rate = package->learning_rate;
    options.batch_size = package->batch_size;
    options.epochs = package->epochs;
    options.seed = package->seed;
    return options;
}
