/* adabet-device PACKAGE COMMAND [OPTIONS]: the library as a command line program, with raw little-endian files as data.
 *
 *   show                                                describes the package
 *   score   --x FILE [--memory BYTES] [--batch N]       scores the layers and chooses an entry
 *   fit     --x FILE --y FILE [--entry NAME] [--rate R] [--batch N] [--epochs N] [--seed N] [--progress FILE]
 *           [--held-x FILE --held-y FILE] [--delta FILE] [--selected FILE] [--stop STEP]
 *   predict --x FILE --out FILE [--from FILE]           with a delta or progress file, or initial values
 *   save    --from FILE [--delta FILE] [--selected FILE]
 *
 * With --raw yes, the numbers of --x and --held-x, such as float32 pixels from 0 to 255, are preprocessed as the
 * package defines. For a model with several inputs, give --x (and --held-x) once for each; for several outputs, --out.
 * ONNX Runtime is loaded from --onnxruntime FILE, else from $ADABET_ONNXRUNTIME; --threads N sets its threads. fit
 * prints the loss of each step, and a line for each epoch. The exit status is the error code, or 0.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adabet.h"

#define MOST 16

typedef struct {
    const char *package, *command;
    const char *x[MOST], *held_x[MOST], *out[MOST];
    size_t x_count, held_x_count, out_count;
    const char *y, *held_y, *entry, *progress, *delta, *selected, *from, *memory, *stop, *raw;
    const char *rate, *batch, *epochs, *seed, *onnxruntime, *threads;
} arguments;

typedef struct {
    adabet_array inputs[MOST];
    adabet_data data;
} loaded;

static int failed(const adabet_error *error) {
    fprintf(stderr, "%s: %s\n", adabet_code_name(error->code), error->message);
    return (int)error->code;
}

static int wrong(const char *what, const char *why) {
    fprintf(stderr, "usage: %s %s\n", what, why);
    return ADABET_USAGE;
}

static int parse(int count, char **given, arguments *a) {
    const struct {
        const char *name;
        const char **one;
        size_t *many;
    } options[] = {{"--x", a->x, &a->x_count},         {"--held-x", a->held_x, &a->held_x_count},
                   {"--out", a->out, &a->out_count},   {"--y", &a->y, NULL},
                   {"--held-y", &a->held_y, NULL},     {"--entry", &a->entry, NULL},
                   {"--progress", &a->progress, NULL}, {"--delta", &a->delta, NULL},
                   {"--selected", &a->selected, NULL}, {"--from", &a->from, NULL},
                   {"--memory", &a->memory, NULL},     {"--stop", &a->stop, NULL},
                   {"--raw", &a->raw, NULL},           {"--rate", &a->rate, NULL},
                   {"--batch", &a->batch, NULL},       {"--epochs", &a->epochs, NULL},
                   {"--seed", &a->seed, NULL},         {"--onnxruntime", &a->onnxruntime, NULL},
                   {"--threads", &a->threads, NULL}};
    if (count < 3) return wrong("adabet-device PACKAGE show|score|fit|predict|save", "[OPTIONS]");
    a->package = given[1];
    a->command = given[2];
    for (int i = 3; i < count; i += 2) {
        size_t k = 0, all = sizeof options / sizeof *options;
        while (k < all && strcmp(options[k].name, given[i]) != 0) k++;
        if (k == all || i + 1 == count) return wrong(given[i], k == all ? "is not an option" : "needs a value");
        if (options[k].many == NULL) *options[k].one = given[i + 1];
        else if (*options[k].many < MOST) options[k].one[(*options[k].many)++] = given[i + 1];
        else return wrong(given[i], "is given too often");
    }
    return 0;
}

static int whole(const char *name, const char *text, unsigned long long *number) {
    char *end;
    if (text == NULL) return 0;
    *number = strtoull(text, &end, 10);
    return *text < '0' || *text > '9' || *end != 0 ? wrong(name, "takes a whole number") : 0;
}

static int read_file(const char *path, adabet_array *array) {
    FILE *file = fopen(path, "rb");
    long size = -1;
    char *data = NULL;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0) size = ftell(file);
    if (size >= 0) data = malloc((size_t)size + 1);
    if (data != NULL) rewind(file);
    if (data == NULL || fread(data, 1, (size_t)size, file) != (size_t)size) {
        free(data);
        data = NULL;
    }
    if (file != NULL) fclose(file);
    if (data == NULL) return wrong(path, "cannot be read");
    array->data = data;
    array->bytes = (size_t)size;
    return 0;
}

static void forget(loaded *l) {
    for (size_t i = 0; i < l->data.input_count; i++) free((void *)(uintptr_t)l->inputs[i].data);
    free((void *)(uintptr_t)l->data.labels.data);
}

static int load(const adabet_package *package, const arguments *a, const char *const *x, size_t count, const char *y,
                loaded *l) {
    adabet_error error;
    int problem = count == 0 ? wrong("--x", "is missing") : 0;
    memset(l, 0, sizeof *l);
    l->data.inputs = l->inputs;
    for (size_t i = 0; i < count && problem == 0; i++) {
        problem = read_file(x[i], l->inputs + i);
        if (problem == 0) l->data.input_count++;
        if (problem != 0 || a->raw == NULL || i >= adabet_input_count(package)) continue;
        float *numbers = (float *)(uintptr_t)l->inputs[i].data;
        if (adabet_preprocess(package, i, numbers, l->inputs[i].bytes, &error) != ADABET_OK) problem = failed(&error);
    }
    return problem == 0 && y != NULL ? read_file(y, &l->data.labels) : problem;
}

/* ---- commands ---------------------------------------------------------------------------------------------------- */

static void print_value(const char *what, adabet_value value) {
    printf("%s %s %s [", what, value.name, value.dtype);
    for (size_t d = 0; d < value.dimensions; d++) {
        if (d > 0) printf(", ");
        if (value.shape[d] == 0) printf("N");
        else printf("%lld", (long long)value.shape[d]);
    }
    printf("]\n");
}

static int show(const adabet_package *package) {
    printf("model %s\nonnxruntime %s\n", adabet_model_name(package), adabet_runtime_version(package));
    for (size_t i = 0; i < adabet_input_count(package); i++) print_value("input", adabet_input(package, i));
    for (size_t i = 0; i < adabet_output_count(package); i++) print_value("output", adabet_output(package, i));
    print_value("labels", adabet_labels(package));
    for (size_t i = 0; i < adabet_entry_count(package); i++) {
        adabet_entry entry = adabet_entry_at(package, i);
        printf("entry %s: %zu layers, %llu numbers, %llu bytes to send, %llu bytes of memory at a batch size of 8\n",
               entry.name, entry.layers, (unsigned long long)entry.trained, (unsigned long long)entry.selected_bytes,
               (unsigned long long)adabet_entry_memory(package, i, 8));
        for (size_t k = 0; k < entry.layers; k++) printf("  %s\n", adabet_entry_layer(package, i, k));
    }
    return 0;
}

static int score(adabet_package *package, const arguments *a) {
    adabet_error error;
    loaded l;
    unsigned long long batch = adabet_fit_defaults(package).batch_size, memory = UINT64_MAX;
    size_t count = adabet_scored_layer_count(package), entry;
    if (whole("--batch", a->batch, &batch) || whole("--memory", a->memory, &memory)) return ADABET_USAGE;
    double *scores = malloc((count + 1) * sizeof *scores);
    int problem = load(package, a, a->x, a->x_count, NULL, &l);
    if (problem == 0 && scores == NULL) problem = ADABET_NO_MEMORY;
    if (problem == 0 && adabet_score(package, &l.data, NULL, NULL, scores, &error) != ADABET_OK)
        problem = failed(&error);
    for (size_t i = 0; i < count && problem == 0; i++) printf("%.17g %s\n", scores[i], adabet_scored_layer(package, i));
    if (problem == 0 && adabet_choose(package, scores, (size_t)batch, memory, &entry, &error) != ADABET_OK)
        problem = failed(&error);
    if (problem == 0) printf("choice %s\n", adabet_entry_at(package, entry).name);
    free(scores);
    forget(&l);
    return problem;
}

static int watch(const adabet_progress *progress, void *user) {
    const unsigned long long *stop = user;
    if (!progress->epoch_done) {
        printf("%.9g\n", progress->loss);
    } else {
        printf("epoch %zu loss %.9g", progress->epoch, progress->loss);
        if (!isnan(progress->held_out_loss)) printf(" held-out loss %.9g", progress->held_out_loss);
        if (!isnan(progress->held_out_accuracy)) printf(" accuracy %.17g", progress->held_out_accuracy);
        printf("\n");
    }
    fflush(stdout);
    return !progress->epoch_done && progress->step == *stop;
}

static int save_to(const adabet_model *model, const arguments *a) {
    adabet_error error;
    if (a->delta != NULL && adabet_save_delta(model, a->delta, &error) != ADABET_OK) return failed(&error);
    if (a->selected != NULL && adabet_save_selected(model, a->selected, &error) != ADABET_OK) return failed(&error);
    return 0;
}

static int fit_options(adabet_package *package, const arguments *a, adabet_fit_options *options) {
    unsigned long long batch = options->batch_size, epochs = options->epochs, seed = options->seed;
    char *end = NULL;
    if (whole("--batch", a->batch, &batch) || whole("--epochs", a->epochs, &epochs) || whole("--seed", a->seed, &seed))
        return ADABET_USAGE;
    if (seed > UINT32_MAX) return wrong("--seed", "takes a number below 2^32");
    options->batch_size = (size_t)batch;
    options->epochs = (size_t)epochs;
    options->seed = (uint32_t)seed;
    if (a->rate != NULL) options->learning_rate = strtod(a->rate, &end);
    if (end != NULL && *end != 0) return wrong("--rate", "takes a number");
    if (a->entry != NULL && !adabet_find_entry(package, a->entry, &options->entry))
        return wrong(a->entry, "is not an entry");
    options->progress = a->progress;
    options->watch = watch;
    return 0;
}

static int fit(adabet_package *package, const arguments *a) {
    adabet_error error;
    adabet_fit_options options = adabet_fit_defaults(package);
    adabet_model *model = NULL;
    loaded l, held;
    unsigned long long stop = 0;
    memset(&held, 0, sizeof held);
    int problem = fit_options(package, a, &options);
    if (problem != 0 || whole("--stop", a->stop, &stop)) return ADABET_USAGE;
    options.user = &stop;
    problem = load(package, a, a->x, a->x_count, a->y, &l);
    if (problem == 0 && a->held_x_count > 0) {
        problem = load(package, a, a->held_x, a->held_x_count, a->held_y, &held);
        options.held_out = &held.data;
    }
    if (problem == 0 && adabet_fit(package, &l.data, &options, &model, &error) != ADABET_OK) problem = failed(&error);
    if (problem == 0) problem = save_to(model, a);
    adabet_model_free(model);
    forget(&l);
    forget(&held);
    return problem;
}

static int model_from(adabet_package *package, const arguments *a, adabet_model **model) {
    adabet_error error;
    size_t entry = 0;
    if (a->entry != NULL && !adabet_find_entry(package, a->entry, &entry)) return wrong(a->entry, "is not an entry");
    adabet_code code =
        a->from != NULL ? adabet_load(package, a->from, model, &error) : adabet_initial(package, entry, model, &error);
    return code == ADABET_OK ? 0 : failed(&error);
}

static int write_file(const char *path, const void *data, size_t bytes) {
    FILE *file = fopen(path, "wb");
    int problem = file == NULL || fwrite(data, 1, bytes, file) != bytes;
    if (file != NULL && fclose(file) != 0) problem = 1;
    return problem ? wrong(path, "cannot be written") : 0;
}

static int predict(adabet_package *package, const arguments *a) {
    adabet_error error;
    adabet_model *model = NULL;
    adabet_room rooms[MOST];
    loaded l;
    memset(rooms, 0, sizeof rooms);
    if (a->out_count == 0 || a->out_count > adabet_output_count(package) || adabet_output_count(package) > MOST)
        return wrong("--out", "can be given at most once per output");
    int problem = load(package, a, a->x, a->x_count, NULL, &l);
    if (problem == 0) problem = model_from(package, a, &model);
    for (size_t i = 0; i < a->out_count && problem == 0; i++) {
        rooms[i].bytes = l.inputs[0].bytes / adabet_input(package, 0).bytes * adabet_output(package, i).bytes;
        rooms[i].data = malloc(rooms[i].bytes + 1);
        if (rooms[i].data == NULL) problem = ADABET_NO_MEMORY;
    }
    if (problem == 0 && adabet_predict(model, &l.data, rooms, &error) != ADABET_OK) problem = failed(&error);
    for (size_t i = 0; i < a->out_count; i++) {
        if (problem == 0) problem = write_file(a->out[i], rooms[i].data, rooms[i].bytes);
        free(rooms[i].data);
    }
    adabet_model_free(model);
    forget(&l);
    return problem;
}

static int save(adabet_package *package, const arguments *a) {
    adabet_model *model = NULL;
    int problem = a->from == NULL ? wrong("--from", "is missing") : model_from(package, a, &model);
    if (problem == 0) problem = save_to(model, a);
    adabet_model_free(model);
    return problem;
}

int main(int count, char **given) {
    adabet_error error;
    adabet_package *package;
    adabet_open_options options = {0};
    arguments a;
    unsigned long long threads = 1;
    memset(&a, 0, sizeof a);
    int problem = parse(count, given, &a);
    if (problem != 0 || whole("--threads", a.threads, &threads)) return ADABET_USAGE;
    options.onnxruntime = a.onnxruntime;
    options.threads = (int)(threads < 64 ? threads : 64);
    if (adabet_open(a.package, &options, &package, &error) != ADABET_OK) return failed(&error);
    if (strcmp(a.command, "show") == 0) problem = show(package);
    else if (strcmp(a.command, "score") == 0) problem = score(package, &a);
    else if (strcmp(a.command, "fit") == 0) problem = fit(package, &a);
    else if (strcmp(a.command, "predict") == 0) problem = predict(package, &a);
    else if (strcmp(a.command, "save") == 0) problem = save(package, &a);
    else problem = wrong(a.command, "is not a command");
    adabet_close(package);
    return problem;
}
