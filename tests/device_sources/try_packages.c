/* try_packages X.bin Y.bin OUT < LIST: everything that can be done with each package of a list of folders, until
 * something fails; one line each: the folder, the last stage, the code's name, the message. Files are written into OUT,
 * prefixed with the folder's name.
 *
 * try_packages X.bin Y.bin OUT STRIDE < LIST: the same with the first allocation of the library failing, then with the
 * one STRIDE later, and so on until all succeed; the line is that of the first result other than lack of memory, and
 * the number of attempts. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adabet.h"

static unsigned long allocations, failing; /* number of allocations; the one that fails, counted from 1; 0: none */

static int fails(void) {
    return ++allocations == failing;
}

void *failing_malloc(size_t bytes);
void *failing_calloc(size_t count, size_t bytes);
void *failing_realloc(void *old, size_t bytes);
int failing_memalign(void **made, size_t aligned, size_t bytes);

void *failing_malloc(size_t bytes) {
    return fails() ? NULL : malloc(bytes);
}

void *failing_calloc(size_t count, size_t bytes) {
    return fails() ? NULL : calloc(count, bytes);
}

void *failing_realloc(void *old, size_t bytes) {
    return fails() ? NULL : realloc(old, bytes);
}

int failing_memalign(void **made, size_t aligned, size_t bytes) {
    return fails() ? 12 : posix_memalign(made, aligned, bytes); /* ENOMEM */
}

static adabet_array read_file(const char *path) {
    adabet_array array = {NULL, 0};
    FILE *file = fopen(path, "rb");
    char *data = malloc(1 << 20);
    if (file == NULL || data == NULL) exit(2);
    array.bytes = fread(data, 1, 1 << 20, file);
    array.data = data;
    fclose(file);
    return array;
}

static adabet_code use(adabet_package *package, const adabet_data *data, const char *out, const char *name,
                       const char **stage, adabet_error *error) {
    char delta[4096], selected[4096], progress[4096];
    adabet_fit_options options = adabet_fit_defaults(package);
    adabet_model *model = NULL;
    adabet_room *rooms = calloc(adabet_output_count(package), sizeof *rooms);
    double *scores = calloc(adabet_scored_layer_count(package) + 1, sizeof *scores);
    size_t samples = data->inputs[0].bytes / adabet_input(package, 0).bytes;
    if (rooms == NULL || scores == NULL) exit(2);
    snprintf(delta, sizeof delta, "%s/%s.delta", out, name);
    snprintf(selected, sizeof selected, "%s/%s.selected", out, name);
    snprintf(progress, sizeof progress, "%s/%s.progress", out, name);
    options.epochs = 1;
    options.batch_size = 4;
    options.progress = progress;
    options.held_out = data;
    *stage = "score";
    adabet_code code = adabet_score(package, data, NULL, NULL, scores, error);
    if (code == ADABET_OK) code = adabet_choose(package, scores, 4, UINT64_MAX, &options.entry, error);
    *stage = code == ADABET_OK ? "fit" : *stage;
    if (code == ADABET_OK) code = adabet_fit(package, data, &options, &model, error);
    *stage = code == ADABET_OK ? "predict" : *stage;
    for (size_t i = 0; i < adabet_output_count(package) && code == ADABET_OK; i++) {
        rooms[i].bytes = samples * adabet_output(package, i).bytes;
        rooms[i].data = rooms[i].bytes < 1 << 20 ? malloc(rooms[i].bytes + 1) : NULL;
    }
    if (code == ADABET_OK) code = adabet_predict(model, data, rooms, error);
    *stage = code == ADABET_OK ? "save" : *stage;
    if (code == ADABET_OK) code = adabet_save_delta(model, delta, error);
    if (code == ADABET_OK) code = adabet_save_selected(model, selected, error);
    for (size_t i = 0; i < adabet_output_count(package); i++) free(rooms[i].data);
    adabet_model_free(model);
    free(rooms);
    free(scores);
    return code;
}

static adabet_code try_package(const char *folder, const adabet_data *data, const char *out, const char **stage,
                               adabet_error *error) {
    adabet_package *package;
    allocations = 0;
    *stage = "open";
    error->code = ADABET_OK;
    adabet_code code = adabet_open(folder, NULL, &package, error);
    if (code == ADABET_OK) code = use(package, data, out, strrchr(folder, '/') + 1, stage, error);
    adabet_close(package);
    return code;
}

int main(int count, char **arguments) {
    char folder[4096];
    if (count != 4 && count != 5) return 2;
    unsigned long stride = count == 5 ? strtoul(arguments[4], NULL, 10) : 0, tries = 1;
    adabet_array x = read_file(arguments[1]);
    adabet_data data = {&x, 1, read_file(arguments[2])};
    while (fgets(folder, sizeof folder, stdin) != NULL) {
        adabet_error error = {ADABET_OK, ""};
        const char *stage;
        folder[strcspn(folder, "\n")] = 0;
        failing = stride > 0 ? 1 : 0;
        adabet_code code = try_package(folder, &data, arguments[3], &stage, &error);
        for (; code == ADABET_NO_MEMORY && failing > 0; tries++) {
            failing += stride;
            code = try_package(folder, &data, arguments[3], &stage, &error);
        }
        printf("%s\t%s\t%s\t%s", folder, stage, adabet_code_name(code), code == ADABET_OK ? "" : error.message);
        if (stride > 0) printf("%lu tries, %lu allocations", tries, allocations);
        printf("\n");
        fflush(stdout);
    }
    free((void *)(uintptr_t)x.data);
    free((void *)(uintptr_t)data.labels.data);
    return 0;
}
