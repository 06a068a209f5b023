/* Declarations shared by the files of the library. */
#ifndef ADABET_INTERNAL_H
#define ADABET_INTERNAL_H

#include <onnxruntime_c_api.h>
#include <stdio.h>

#include "adabet.h"
#include "json.h"
#include "sha256.h"

#define AB_TRY(call) \
    do { \
        adabet_code tried = (call); \
        if (tried != ADABET_OK) return tried; \
    } while (0)

#if defined(__GNUC__)
#define AB_LIKE_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define AB_LIKE_PRINTF(text, first)
#endif

/* ---- errors and arithmetic (errors.c) ---------------------------------------------------------------------------- */

/* Writes the message, truncated if it is too long; returns the code. */
adabet_code ab_fail(adabet_error *error, adabet_code code, const char *format, ...) AB_LIKE_PRINTF(3, 4);
adabet_code ab_no_memory(adabet_error *error);
bool ab_product(size_t a, size_t b, size_t *product); /* false: overflow */

/* Allocates bytes aligned for any tensor; NULL if there is no memory. Free with free. */
void *ab_room(size_t bytes);

/* ---- random numbers (random.c) ----------------------------------------------------------------------------------- */

typedef struct {
    uint32_t state;
} ab_random;

ab_random ab_random_of(uint32_t seed, uint32_t stream);
uint32_t ab_random_below(ab_random *random, uint32_t n);
#define AB_MOST_SHUFFLED ((size_t)1 << 21)
/* Writes a permutation of 0 to n - 1 to order; n is at most AB_MOST_SHUFFLED. */
void ab_shuffle(uint32_t *order, size_t n, uint32_t seed, uint32_t stream);
/* The first m values of all, which has room for n, become the subset, in ascending order. */
void ab_subset(ab_random *random, size_t *all, size_t n, size_t m);

/* ---- files (files.c) --------------------------------------------------------------------------------------------- */

/* folder/name; NULL: no memory. */
char *ab_path(const char *folder, const char *name);
/* Reads a whole file of at most so many bytes; a 0 follows the last one. */
adabet_code ab_read(const char *path, size_t most, char **data, size_t *bytes, adabet_error *error);
bool ab_exists(const char *path);
/* Size and SHA-256 of a file, which is read in chunks. */
adabet_code ab_hash_file(const char *path, uint64_t *bytes, char hex[SHA256_HEX], adabet_error *error);

typedef struct {
    FILE *file;
    char *path, *beside;
    int problem; /* the first errno, or 0 */
} ab_writer;

/* Writes to a temporary file beside path; ab_write_end renames it, ab_write_drop removes it. */
adabet_code ab_write_begin(ab_writer *writer, const char *path, adabet_error *error);
void ab_write(ab_writer *writer, const void *data, size_t bytes);
adabet_code ab_write_end(ab_writer *writer, adabet_error *error);
void ab_write_drop(ab_writer *writer);

/* ---- the package (package.c, entries.c) -------------------------------------------------------------------------- */

typedef struct {
    const char *name, *dtype_name;
    ONNXTensorElementDataType dtype;
    int64_t shape[ADABET_MOST_DIMENSIONS]; /* the first is 0 if it is the number of samples */
    size_t rank;
    size_t elements; /* of one sample */
    size_t width;    /* bytes of an element */
    size_t bytes;    /* of one sample */
} ab_value;

typedef struct {
    const char *name, *hash;
    uint64_t bytes;
} ab_file;

typedef enum { AB_PARAMETER, AB_STATISTIC, AB_OPTIMIZER } ab_kind;

typedef struct {
    ab_value value; /* name, dtype and shape, without a number of samples */
    ab_kind kind;
    const char *input, *output;
    size_t offset;
} ab_tensor;

typedef struct {
    ab_value value;
    size_t input; /* index of the model's input; AB_COMPUTED: computed by the frozen graph */
} ab_boundary;
#define AB_COMPUTED ((size_t)-1)

typedef struct {
    size_t batch;
    uint64_t bytes;
} ab_memory;

typedef struct {
    const char *name;
    const json *layers;
    uint64_t trained;
    const ab_file *frozen, *step, *evaluation, *prediction, *state, *model,
        *selected; /* frozen and model may be NULL */
    size_t selected_bytes;
    ab_boundary *boundary;
    size_t boundary_count;
    const char *labels, *learning_rate, *step_number, *loss, *logits;
    ab_value logits_value;
    size_t class_axis; /* AB_COMPUTED: none */
    ab_tensor *tensors;
    size_t tensor_count, kept_count; /* kept_count: parameters and statistics, which come first */
    ab_memory *memory;
    size_t memory_count;
} ab_entry;

typedef struct {
    const char *name;
    ab_value output;
    double size;
} ab_scored;

typedef struct {
    const ab_file *file; /* NULL: the package cannot score */
    size_t samples, points, subsets;
    uint32_t seed;
    ab_scored *layers;
    size_t layer_count;
} ab_scoring;

typedef struct {
    bool there, bgr;
    float scale;
    const json *mean, *std; /* lists of numbers */
    size_t axis;            /* of channels; AB_COMPUTED: none */
} ab_preprocessing;

struct adabet_package {
    char *folder;
    json *description;     /* device.json; strings point into it */
    char hash[SHA256_HEX]; /* of device.json */
    const char *model, *model_hash;
    ab_file *files;
    size_t file_count;
    ab_value *inputs, *outputs;
    size_t input_count, output_count;
    ab_value labels;
    bool has_classes, has_ignored;
    int64_t classes, ignored;
    const json *class_names; /* an array, or NULL */
    ab_preprocessing preprocessing;
    double learning_rate;
    size_t forward_batch; /* number of samples that the graphs without training accept; 0: any */
    size_t batch_size, epochs;
    uint32_t seed;
    ab_scoring scoring;
    ab_entry *entries;
    size_t entry_count;
    const OrtApi *ort;
    const char *ort_version;
    OrtEnv *env;
    OrtSessionOptions *session_options;
    OrtMemoryInfo *cpu;
};

struct adabet_model {
    adabet_package *package;
    size_t entry;
    char *values;           /* the first selected_bytes of the entry's state */
    struct ab_graph *graph; /* for predictions; opened on first use */
};

/* Fills the package from its description. */
adabet_code ab_describe(adabet_package *package, adabet_error *error);
adabet_code ab_describe_entries(adabet_package *package, adabet_error *error);
adabet_code ab_describe_preprocessing(adabet_package *package, adabet_error *error);
void ab_free_entries(adabet_package *package);

/* Checked values of the description; where is the name of the object in messages. */
adabet_code ab_get(const json *object, const char *key, json_kind kind, const char *where, const json **value,
                   adabet_error *error);
adabet_code ab_get_text(const json *object, const char *key, const char *where, const char **text, adabet_error *error);
adabet_code ab_get_size(const json *object, const char *key, const char *where, int64_t least, int64_t most,
                        int64_t *number, adabet_error *error);
adabet_code ab_get_file(const adabet_package *package, const json *object, const char *key, const char *where,
                        const ab_file **file, adabet_error *error); /* NULL for null */
/* batched: the shape begins with the number of samples. key is the name of the shape, such as "shape". */
adabet_code ab_get_value(const json *object, const char *key, bool batched, const char *where, ab_value *value,
                         adabet_error *error);
adabet_code ab_get_shape(const json *object, const char *key, bool batched, const char *where, ab_value *value,
                         adabet_error *error);

/* The bytes of one of the package's files, checked again. */
adabet_code ab_package_file(const adabet_package *package, const ab_file *file, char **data, adabet_error *error);

/* ---- data (data.c) ----------------------------------------------------------------------------------------------- */

/* Counts the samples of data after checking the sizes and, if labels is true, the labels. */
adabet_code ab_check_data(const adabet_package *package, const adabet_data *data, bool labels, const char *what,
                          size_t *samples, adabet_error *error);
int64_t ab_label(const ab_value *labels, const char *data, size_t place);
bool ab_integer_labels(const ab_value *labels);

/* ---- ONNX Runtime (runtime.c) ------------------------------------------------------------------------------------ */

adabet_code ab_runtime_open(adabet_package *package, const adabet_open_options *options, const char *oldest,
                            adabet_error *error);
void ab_runtime_close(adabet_package *package);

/* A possible input or output of a graph. */
typedef struct {
    const char *name;
    ONNXTensorElementDataType dtype;
} ab_slot;

typedef struct ab_graph {
    adabet_package *package;
    const char *file;
    OrtSession *session;
    char **inputs; /* names of the inputs that the graph has */
    size_t *slots; /* and the slot of each */
    size_t input_count;
    const char **outputs;
    size_t output_count;
    const OrtValue **fed;
} ab_graph;

/* Opens a graph that takes those of ins that it has, and returns all of outs, whose names must outlive it. */
adabet_code ab_graph_open(adabet_package *package, const ab_file *file, const ab_slot *ins, size_t in_count,
                          const ab_slot *outs, size_t out_count, ab_graph **made, adabet_error *error);
void ab_graph_close(ab_graph *graph); /* graph may be NULL */
/* ins as passed to ab_graph_open; results are written to outs. */
adabet_code ab_graph_run(ab_graph *graph, OrtValue *const *ins, OrtValue **outs, adabet_error *error);

/* Creates a tensor over the caller's memory, with one row per sample if the value is batched. */
adabet_code ab_tensor_over(const adabet_package *package, const ab_value *value, void *data, size_t samples,
                           OrtValue **made, adabet_error *error);
/* The numbers of a float32 tensor that ONNX Runtime created; their count is checked. */
adabet_code ab_tensor_floats(const adabet_package *package, OrtValue *value, size_t count, const char *name,
                             const float **numbers, adabet_error *error);
void ab_tensors_free(const adabet_package *package, OrtValue **values, size_t count);
const ab_value *ab_number(ONNXTensorElementDataType dtype); /* a single float32 or int64 */

/* ---- training (features.c, state.c, fit.c, evaluate.c) ----------------------------------------------------------- */

/* The inputs of the training steps for all samples: one array per boundary. */
typedef struct {
    const char **arrays; /* pointers into the caller's data, or into made */
    char **made;
    size_t count, samples;
} ab_features;

adabet_code ab_features_make(adabet_package *package, const ab_entry *entry, const adabet_data *data, size_t samples,
                             ab_features *features, adabet_error *error);
void ab_features_free(ab_features *features);

/* Features and labels of a batch of samples, in memory that is reused. */
typedef struct {
    char **arrays; /* one per boundary, and one for the labels */
    size_t count, size;
} ab_batch;

adabet_code ab_batch_make(const adabet_package *package, const ab_entry *entry, size_t size, ab_batch *batch,
                          adabet_error *error);
void ab_batch_free(ab_batch *batch);
/* order may be NULL for the given order. Creates one tensor per array. */
adabet_code ab_batch_fill(const adabet_package *package, const ab_entry *entry, ab_batch *batch,
                          const ab_features *features, const adabet_data *data, const uint32_t *order, size_t first,
                          size_t samples, OrtValue **values, adabet_error *error);

/* Creates the tensors of an entry over memory with the layout of its state. */
adabet_code ab_state_tensors(const adabet_package *package, const ab_entry *entry, size_t count, char *memory,
                             OrtValue **values, adabet_error *error);
/* The name of one of the first count tensors that has a NaN or infinite number, or NULL. */
const char *ab_not_finite(const ab_entry *entry, size_t count, const char *memory);

typedef struct {
    uint64_t epoch, step, seed, batch_size;
} ab_place;

adabet_code ab_model_make(adabet_package *package, size_t entry, const char *values, adabet_model **made,
                          adabet_error *error);

/* Held-out samples, and the graph that evaluates them. */
typedef struct {
    ab_graph *graph;
    ab_features features;
    ab_batch batch;
    const adabet_data *data;
    size_t samples;
    char *logits;
} ab_evaluation;

adabet_code ab_evaluation_make(adabet_package *package, const ab_entry *entry, const adabet_data *data, size_t batch,
                               ab_evaluation *evaluation, adabet_error *error);
adabet_code ab_evaluate(ab_evaluation *evaluation, const ab_entry *entry, OrtValue *const *state, double *loss,
                        double *accuracy, adabet_error *error);
void ab_evaluation_free(ab_evaluation *evaluation);

/* ---- deltas and progress (safetensors.c, saved.c) ---------------------------------------------------------------- */

typedef struct {
    const char *name, *dtype;
    const json *shape;
    size_t begin, end; /* in data */
} ab_stored;

typedef struct {
    char *bytes;
    const char *data;
    size_t data_bytes;
    json *header;
    const json *metadata; /* an object of strings, or NULL */
    ab_stored *tensors;   /* by name */
    size_t count;
} ab_safetensors;

/* Reads any valid safetensors file with at most so many bytes of data. */
adabet_code ab_safetensors_read(const char *path, size_t most, ab_safetensors *file, adabet_error *error);
void ab_safetensors_free(ab_safetensors *file);
const char *ab_metadata(const ab_safetensors *file, const char *key); /* NULL: none */
const ab_stored *ab_stored_named(const ab_safetensors *file, const char *name);

/* Writes the first count tensors of an entry from memory with the layout of its state. place is given only for
 * progress. */
adabet_code ab_save(const adabet_package *package, const ab_entry *entry, size_t count, const char *memory,
                    const ab_place *place, const char *path, adabet_error *error);
/* Reads into memory with the layout of the state. With place, a progress file of this entry is expected. */
adabet_code ab_restore(const adabet_package *package, const ab_entry *entry, const char *path, char *memory,
                       ab_place *place, adabet_error *error);

#endif
