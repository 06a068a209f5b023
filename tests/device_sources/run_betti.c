/* Runs samples/c/betti.c for tests/device/test_device_betti.py and tests/benchmarks/bench_betti_ports.py.
 *
 *     run_betti numbers FILE          the number of each matrix of a file such as betti-1000.bin, a line each
 *     run_betti subsets FILE SUBSETS  the numbers of its subsets, a line for each matrix; README.md has the format
 *     run_betti time FILE SUBSETS     milliseconds of processor time for that, without reading
 *     run_betti matrix FILE           a whole matrix in float64: its number, or the error and its position
 *     run_betti no-memory FILE        the same as numbers, with each allocation failing once
 *     run_betti too-many NUMBER       the message for so many points
 */
#include "betti.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* betti.c may be compiled with these as its allocation functions (-Dcalloc=failing_calloc): call `fails_at` fails. */
static size_t calls, fails_at;

void *failing_calloc(size_t count, size_t size);
void *failing_realloc(void *old, size_t size);

void *failing_calloc(size_t count, size_t size) { return ++calls == fails_at ? NULL : calloc(count, size); }
void *failing_realloc(void *old, size_t size) { return ++calls == fails_at ? NULL : realloc(old, size); }

typedef struct {
    unsigned char *bytes;
    size_t size, at;
} file;

static void stop(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(2);
}

static void *room(size_t size) {
    void *made = calloc(size > 0 ? size : 1, 1);
    if (made == NULL) stop("no memory");
    return made;
}

static file read_file(const char *path) {
    file read = {0};
    FILE *stream = fopen(path, "rb");
    if (stream == NULL || fseek(stream, 0, SEEK_END) != 0) stop("cannot open a file");
    read.size = (size_t)ftell(stream);
    read.bytes = room(read.size);
    rewind(stream);
    if (fread(read.bytes, 1, read.size, stream) != read.size) stop("cannot read a file");
    fclose(stream);
    return read;
}

/* The next number, little-endian. */
static uint64_t take(file *from, size_t size) {
    uint64_t value = 0;
    if (from->size - from->at < size) stop("a file ends too early");
    for (size_t k = 0; k < size; k++) value |= (uint64_t)from->bytes[from->at++] << (8 * k);
    return value;
}

static double take_length(file *from, size_t size) {
    if (size == 8) {
        uint64_t bits = take(from, 8);
        double value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    uint32_t bits = (uint32_t)take(from, 4);
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

/* The next matrix of a file; the caller frees it. */
static double *take_matrix(file *from, size_t *points) {
    size_t n = *points = (size_t)take(from, 2), bytes = (size_t)take(from, 2);
    take(from, 4);
    double *matrix = room(n * n * sizeof *matrix);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i + 1; j < n; j++) matrix[i * n + j] = matrix[j * n + i] = take_length(from, bytes);
    }
    return matrix;
}

static size_t take_count(file *from) {
    if (take(from, 4) != 0x31544542) stop("a file does not start with BET1");
    return (size_t)take(from, 4);
}

static void numbers(file from) {
    for (size_t left = take_count(&from); left > 0; left--) {
        size_t points, number;
        double *matrix = take_matrix(&from, &points);
        betti_status status = betti_number(matrix, points, &number);
        if (status != BETTI_OK) stop(betti_message(status));
        printf("%zu\n", number);
        free(matrix);
    }
}

static double milliseconds(void) { return 1e3 * (double)clock() / CLOCKS_PER_SEC; }

/* Prints the numbers of subsets; returns how long counting took. */
static double subsets(file from, file chosen, int print) {
    double spent = 0;
    for (size_t left = take_count(&from); left > 0; left--) {
        size_t points;
        double *matrix = take_matrix(&from, &points);
        size_t count = (size_t)take(&chosen, 4), size = (size_t)take(&chosen, 4);
        size_t *indices = room(count * size * sizeof *indices), *found = room(count * sizeof *found);
        for (size_t k = 0; k < count * size; k++) indices[k] = (size_t)take(&chosen, 4);
        double began = milliseconds();
        betti_loops *loops;
        betti_status status = betti_new(matrix, points, &loops);
        if (status == BETTI_OK) status = betti_count(loops, indices, count, size, found);
        betti_free(loops);
        spent += milliseconds() - began;
        for (size_t k = 0; k < count && print && status == BETTI_OK; k++) printf("%zu ", found[k]);
        if (print) printf("%s\n", status == BETTI_OK ? "" : betti_message(status));
        free(matrix);
        free(indices);
        free(found);
    }
    return spent;
}

static void matrix(file from) {
    size_t points = (size_t)(sqrt((double)(from.size / 8)) + 0.5), row = 0, column = 0, number;
    double *distance = room(points * points * sizeof *distance);
    for (size_t k = 0; k < points * points; k++) distance[k] = take_length(&from, 8);
    betti_status status = betti_number(distance, points, &number);
    if (betti_check(distance, points, &row, &column) != status) stop("betti_check and betti_number differ");
    if (status == BETTI_OK) {
        printf("%zu\n", number);
    } else {
        printf("%s: row %zu, column %zu\n", betti_message(status), row, column);
    }
    free(distance);
}

/* Prints how many allocations failed, and the final numbers. */
static void no_memory(file from) {
    size_t refused = 0;
    for (size_t left = take_count(&from); left > 0; left--) {
        size_t points, number;
        double *distance = take_matrix(&from, &points);
        betti_status status = BETTI_NO_MEMORY;
        for (fails_at = 1; status != BETTI_OK; fails_at++) {
            calls = 0;
            status = betti_number(distance, points, &number);
            if (status != BETTI_OK && status != BETTI_NO_MEMORY) stop(betti_message(status));
            refused += status == BETTI_NO_MEMORY;
        }
        printf("%zu\n", number);
        free(distance);
    }
    fprintf(stderr, "%zu", refused);
}

static void too_many(const char *points) {
    double none = 0;
    betti_loops *loops;
    betti_status status = betti_new(&none, (size_t)strtoull(points, NULL, 10), &loops);
    printf("%s\n", betti_message(status));
    if (loops != NULL) stop("there is something to free");
}

int main(int argc, char **argv) {
    if (argc < 3) stop("see the top of run_betti.c");
    if (strcmp(argv[1], "too-many") == 0) {
        too_many(argv[2]);
        return 0;
    }
    file first = read_file(argv[2]), second = {0};
    if (argc > 3) second = read_file(argv[3]);
    if (strcmp(argv[1], "numbers") == 0) numbers(first);
    if (strcmp(argv[1], "subsets") == 0) subsets(first, second, 1);
    if (strcmp(argv[1], "time") == 0) printf("%f\n", subsets(first, second, 0));
    if (strcmp(argv[1], "matrix") == 0) matrix(first);
    if (strcmp(argv[1], "no-memory") == 0) no_memory(first);
    free(first.bytes);
    free(second.bytes);
    return 0;
}
