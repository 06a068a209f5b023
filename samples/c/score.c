/* Scores layers, and chooses an entry by the scores. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "betti.h"
#include "internal.h"

/* The numbers that represent each layer's activation, for all samples. */
typedef struct {
    adabet_package *package;
    size_t samples;
    float **numbers;
    ab_graph *graph;
    ab_slot *ins;
    OrtValue **fed, **given;
    const char **outputs; /* two layers may share an output */
    size_t output_count, *output_of;
    size_t done, all;
    adabet_count_watch watch;
    void *user;
} scoring;

size_t adabet_scored_layer_count(const adabet_package *package) {
    return package->scoring.layer_count;
}

const char *adabet_scored_layer(const adabet_package *package, size_t layer) {
    return layer < package->scoring.layer_count ? package->scoring.layers[layer].name : NULL;
}

static adabet_code tell(scoring *s, adabet_error *error) {
    if (s->watch != NULL && s->watch(++s->done, s->all, s->user) != 0)
        return ab_fail(error, ADABET_CANCELLED, "scoring was stopped");
    return ADABET_OK;
}

static adabet_code make_room(scoring *s, adabet_error *error) {
    const ab_scoring *of = &s->package->scoring;
    size_t layers = of->layer_count, bytes;
    s->numbers = calloc(layers, sizeof *s->numbers);
    s->output_of = calloc(layers, sizeof *s->output_of);
    s->given = calloc(layers, sizeof *s->given);
    s->outputs = calloc(layers, sizeof *s->outputs);
    s->ins = calloc(s->package->input_count, sizeof *s->ins);
    s->fed = calloc(s->package->input_count, sizeof *s->fed);
    if (!s->numbers || !s->output_of || !s->given || !s->outputs || !s->ins || !s->fed) return ab_no_memory(error);
    for (size_t i = 0; i < layers; i++) {
        const ab_value *output = &of->layers[i].output;
        if (ab_product(output->elements, s->samples * sizeof(float), &bytes)) s->numbers[i] = ab_room(bytes);
        if (s->numbers[i] == NULL) return ab_no_memory(error);
        size_t k = 0;
        while (k < s->output_count && strcmp(s->outputs[k], output->name) != 0) k++;
        if (k == s->output_count) s->outputs[s->output_count++] = output->name;
        s->output_of[i] = k;
    }
    return ADABET_OK;
}

static adabet_code open_graph(scoring *s, adabet_error *error) {
    adabet_package *p = s->package;
    ab_slot *outs = calloc(s->output_count, sizeof *outs);
    if (outs == NULL) return ab_no_memory(error);
    for (size_t i = 0; i < p->input_count; i++) {
        s->ins[i].name = p->inputs[i].name;
        s->ins[i].dtype = p->inputs[i].dtype;
    }
    for (size_t k = 0; k < s->output_count; k++) {
        outs[k].name = s->outputs[k];
        outs[k].dtype = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    }
    adabet_code code =
        ab_graph_open(p, p->scoring.file, s->ins, p->input_count, outs, s->output_count, &s->graph, error);
    free(outs);
    return code;
}

/* Copies a layer's numbers for one sample. */
static adabet_code keep(const scoring *s, size_t layer, size_t sample, adabet_error *error) {
    const ab_scored *of = s->package->scoring.layers + layer;
    const float *from = NULL;
    size_t count = of->output.elements;
    AB_TRY(ab_tensor_floats(s->package, s->given[s->output_of[layer]], count, of->output.name, &from, error));
    for (size_t i = 0; i < count; i++)
        if (!isfinite(from[i]))
            return ab_fail(error, ADABET_NOT_FINITE, "the activation of layer '%.80s' is not finite for sample %zu",
                           of->name, sample);
    memcpy(s->numbers[layer] + sample * count, from, count * sizeof *from);
    return ADABET_OK;
}

static adabet_code look_at(scoring *s, const adabet_data *data, size_t sample, adabet_error *error) {
    adabet_package *p = s->package;
    adabet_code code = ADABET_OK;
    for (size_t i = 0; i < p->input_count && code == ADABET_OK; i++) {
        const char *from = (const char *)data->inputs[i].data + sample * p->inputs[i].bytes;
        code = ab_tensor_over(p, p->inputs + i, (void *)(uintptr_t)from, 1, s->fed + i, error); /* only read */
    }
    if (code == ADABET_OK) code = ab_graph_run(s->graph, s->fed, s->given, error);
    for (size_t i = 0; i < p->scoring.layer_count && code == ADABET_OK; i++) code = keep(s, i, sample, error);
    ab_tensors_free(p, s->fed, p->input_count);
    ab_tensors_free(p, s->given, s->output_count);
    return code == ADABET_OK ? tell(s, error) : code;
}

static void measure(const float *numbers, size_t samples, size_t count, double *distance) {
    for (size_t i = 0; i < samples; i++)
        for (size_t j = i; j < samples; j++) {
            double sum = 0;
            for (size_t k = 0; k < count; k++) {
                double apart = (double)numbers[i * count + k] - (double)numbers[j * count + k];
                sum += apart * apart;
            }
            distance[i * samples + j] = distance[j * samples + i] = sqrt(sum);
        }
}

/* Draws the subsets of samples, one after another. */
static adabet_code draw(const scoring *s, size_t points, size_t count, size_t **made, adabet_error *error) {
    ab_random random = ab_random_of(s->package->scoring.seed, 0);
    size_t total, *all = malloc(s->samples * sizeof *all);
    *made = NULL;
    if (ab_product(points * sizeof **made, count, &total)) *made = malloc(total);
    if (all == NULL || *made == NULL) {
        free(all);
        return ab_no_memory(error);
    }
    for (size_t i = 0; i < count; i++) {
        ab_subset(&random, all, s->samples, points);
        memcpy(*made + i * points, all, points * sizeof *all);
    }
    free(all);
    return ADABET_OK;
}

static adabet_code betti_failed(betti_status status, const char *layer, adabet_error *error) {
    if (status == BETTI_OK) return ADABET_OK;
    if (status == BETTI_NO_MEMORY) return ab_no_memory(error);
    return ab_fail(error, ADABET_NOT_FINITE, "layer '%.80s': %s", layer, betti_message(status));
}

/* Scores all layers, in shared memory. */
static adabet_code count_loops(scoring *s, const size_t *subsets, size_t points, size_t count, double *distance,
                               size_t *loops, double *scores, adabet_error *error) {
    for (size_t i = 0; i < s->package->scoring.layer_count; i++) {
        const ab_scored *layer = s->package->scoring.layers + i;
        betti_loops *of = NULL;
        double sum = 0;
        measure(s->numbers[i], s->samples, layer->output.elements, distance);
        betti_status status = betti_new(distance, s->samples, &of);
        if (status == BETTI_OK) status = betti_count(of, subsets, count, points, loops);
        betti_free(of);
        AB_TRY(betti_failed(status, layer->name, error));
        for (size_t k = 0; k < count; k++) sum += (double)loops[k];
        scores[i] = sum / (double)count / ((double)points * layer->size);
        AB_TRY(tell(s, error));
    }
    return ADABET_OK;
}

static adabet_code score(scoring *s, const adabet_data *data, double *scores, adabet_error *error) {
    const ab_scoring *of = &s->package->scoring;
    size_t *subsets = NULL, there, bytes;
    if (of->file == NULL || of->layer_count == 0)
        return ab_fail(error, ADABET_USAGE, "the package has no graph for scoring: create one that does");
    AB_TRY(ab_check_data(s->package, data, false, "data", &there, error));
    s->samples = there < of->samples ? there : of->samples;
    if (s->samples < 8)
        return ab_fail(error, ADABET_TOO_FEW, "there are %zu samples; scoring needs at least 8", s->samples);
    s->all = s->samples + of->layer_count;
    AB_TRY(make_room(s, error));
    AB_TRY(open_graph(s, error));
    for (size_t i = 0; i < s->samples; i++) AB_TRY(look_at(s, data, i, error));
    ab_graph_close(s->graph);
    s->graph = NULL;
    size_t points = of->points < s->samples ? of->points : s->samples, count = points == s->samples ? 1 : of->subsets;
    double *distance = ab_product(s->samples * sizeof(double), s->samples, &bytes) ? malloc(bytes) : NULL;
    size_t *loops = malloc(count * sizeof *loops);
    adabet_code code =
        distance == NULL || loops == NULL ? ab_no_memory(error) : draw(s, points, count, &subsets, error);
    if (code == ADABET_OK) code = count_loops(s, subsets, points, count, distance, loops, scores, error);
    free(subsets);
    free(distance);
    free(loops);
    return code;
}

adabet_code adabet_score(adabet_package *package, const adabet_data *data, adabet_count_watch watch, void *user,
                         double *scores, adabet_error *error) {
    scoring s = {0};
    if (package == NULL || scores == NULL)
        return ab_fail(error, ADABET_USAGE, "adabet_score needs a package and room for the scores");
    s.package = package;
    s.watch = watch;
    s.user = user;
    adabet_code code = score(&s, data, scores, error);
    ab_graph_close(s.graph);
    for (size_t i = 0; s.numbers != NULL && i < package->scoring.layer_count; i++) free(s.numbers[i]);
    free(s.numbers);
    free(s.output_of);
    free(s.given);
    free(s.outputs);
    free(s.ins);
    free(s.fed);
    return code;
}

/* ---- choosing ---------------------------------------------------------------------------------------------------- */

/* ceil(bytes * b / batch) beyond the last pair. */
uint64_t adabet_entry_memory(const adabet_package *package, size_t entry, size_t batch) {
    const ab_entry *of = package->entries + entry;
    for (size_t i = 0; i < of->memory_count; i++)
        if (of->memory[i].batch >= batch) return of->memory[i].bytes;
    const ab_memory *last = of->memory + of->memory_count - 1;
    uint64_t whole = last->bytes / last->batch, rest = last->bytes % last->batch;
    if (batch > UINT32_MAX || last->batch > UINT32_MAX || (whole != 0 && batch > UINT64_MAX / 2 / whole))
        return UINT64_MAX;
    return whole * batch + (rest * batch + last->batch - 1) / last->batch;
}

static double worth(const adabet_package *package, const ab_entry *entry, const double *scores) {
    double sum = 0;
    for (const json *layer = entry->layers->first; layer != NULL; layer = layer->next)
        for (size_t i = 0; i < package->scoring.layer_count; i++)
            if (strcmp(package->scoring.layers[i].name, layer->text) == 0) {
                sum += scores[i];
                break;
            }
    return sum;
}

adabet_code adabet_choose(const adabet_package *package, const double *scores, size_t batch, uint64_t memory,
                          size_t *entry, adabet_error *error) {
    double best = 0;
    uint64_t least = UINT64_MAX, smallest = UINT64_MAX;
    bool found = false;
    if (package == NULL || scores == NULL || entry == NULL || batch < 1)
        return ab_fail(error, ADABET_USAGE,
                       "adabet_choose needs a package, scores, a batch size and a pointer for the choice");
    for (size_t i = 0; i < package->scoring.layer_count; i++)
        if (!isfinite(scores[i])) return ab_fail(error, ADABET_NOT_FINITE, "score %zu is not finite", i);
    for (size_t i = 0; i < package->entry_count; i++) {
        uint64_t needs = adabet_entry_memory(package, i, batch);
        double of = worth(package, package->entries + i, scores);
        if (needs < smallest) smallest = needs;
        if (needs > memory || (found && (of < best || (of <= best && needs >= least)))) continue;
        found = true;
        best = of;
        least = needs;
        *entry = i;
    }
    if (!found)
        return ab_fail(error, ADABET_NO_MEMORY,
                       "no choice of layers can be trained in %llu bytes at a batch size of %zu: the smallest needs "
                       "%llu",
                       (unsigned long long)memory, batch, (unsigned long long)smallest);
    return ADABET_OK;
}
