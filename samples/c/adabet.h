/* Score, retrain and personalise a model on the device, from a package written by `adabet-onnx device`.
 *
 *     adabet_open      opens a package; the size and SHA-256 of every file are checked
 *     adabet_score     scores layers on the given data; adabet_choose: the best entry that fits in memory
 *     adabet_fit       trains an entry; can be paused, stopped or killed, and then resumed
 *     adabet_predict   predicts with the personal model
 *     adabet_save_*    saves the trained values: as a delta to send, or as the file that the personal model reads
 *
 * A function that can fail returns ADABET_OK or an error code, and describes the error in an adabet_error (which may be
 * NULL). The library prints nothing and never ends the program; files left incomplete by a failed call are removed.
 *
 * Data are little-endian arrays in the layout of the model's input, one sample after another, passed with their size in
 * bytes. A package and its models may be used by one thread at a time.
 */
#ifndef ADABET_H
#define ADABET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ADABET_VERSION "1.0.0"

typedef enum {
    ADABET_OK = 0,
    ADABET_USAGE,       /* an argument is invalid */
    ADABET_WRONG_FILE,  /* a file is missing, truncated or invalid */
    ADABET_WRONG_HASH,  /* a file does not have the recorded SHA-256 */
    ADABET_WRONG_SHAPE, /* the size or type of data does not match the model */
    ADABET_WRONG_LABEL, /* a label is out of range */
    ADABET_NOT_FINITE,  /* a loss, an activation or a number read is NaN or infinite */
    ADABET_NO_MEMORY,
    ADABET_STORAGE,     /* a file cannot be written: no space or no permission */
    ADABET_WRONG_MODEL, /* a delta or progress file belongs to another model, package, entry or training */
    ADABET_TOO_FEW,     /* too few samples */
    ADABET_CANCELLED,   /* cancelled by the caller's callback */
    ADABET_RUNTIME      /* ONNX Runtime is missing, too old, or reports an error */
} adabet_code;

typedef struct {
    adabet_code code;
    char message[600];
} adabet_error;

/* The name of a code, such as "wrong hash". */
const char *adabet_code_name(adabet_code code);

typedef struct {
    const void *data;
    size_t bytes;
} adabet_array;

/* Samples: one array for each of the model's inputs, in the order of the package, and labels if they are needed. */
typedef struct {
    const adabet_array *inputs;
    size_t input_count;
    adabet_array labels;
} adabet_data;

/* ---- open -------------------------------------------------------------------------------------------------------- */

typedef struct adabet_package adabet_package;

typedef struct {
    const char *onnxruntime; /* path of the library; NULL: $ADABET_ONNXRUNTIME, else the system's. Ignored if linked. */
    int threads;             /* per operator; 0 means 1 */
} adabet_open_options;

/* options may be NULL. Free *made with adabet_close, after the models that were created from it. */
adabet_code adabet_open(const char *folder, const adabet_open_options *options, adabet_package **made,
                        adabet_error *error);
void adabet_close(adabet_package *package);

/* The strings belong to the package. */
const char *adabet_model_name(const adabet_package *package);
const char *adabet_runtime_version(const adabet_package *package);

/* An input or output. A dimension of 0 stands for the number of samples. */
#define ADABET_MOST_DIMENSIONS 16
typedef struct {
    const char *name, *dtype;
    int64_t shape[ADABET_MOST_DIMENSIONS];
    size_t dimensions;
    size_t bytes; /* of one sample */
} adabet_value;

size_t adabet_input_count(const adabet_package *package);
size_t adabet_output_count(const adabet_package *package);
adabet_value adabet_input(const adabet_package *package, size_t input);
adabet_value adabet_output(const adabet_package *package, size_t output);
adabet_value adabet_labels(const adabet_package *package);
size_t adabet_class_count(const adabet_package *package);                         /* 0: no classes */
const char *adabet_class_name(const adabet_package *package, size_t class_index); /* NULL: none */

/* Preprocess raw numbers of whole samples, such as pixels from 0 to 255, for this input, in place: scale, mean, std, and
 * channel order (raw data is in the order red, green, blue). Steps that the package does not define are skipped. */
adabet_code adabet_preprocess(const adabet_package *package, size_t input, float *numbers, size_t bytes,
                              adabet_error *error);

typedef struct {
    const char *name;
    size_t layers;           /* number of trained layers */
    uint64_t trained;        /* number of trained values */
    uint64_t selected_bytes; /* size of the file that the personal model reads */
} adabet_entry;

size_t adabet_entry_count(const adabet_package *package);
adabet_entry adabet_entry_at(const adabet_package *package, size_t entry);
const char *adabet_entry_layer(const adabet_package *package, size_t entry, size_t layer);
bool adabet_find_entry(const adabet_package *package, const char *name, size_t *entry);
/* Bytes that training needs at a batch size, according to the package; UINT64_MAX if that overflows. */
uint64_t adabet_entry_memory(const adabet_package *package, size_t entry, size_t batch);

/* ---- score ------------------------------------------------------------------------------------------------------- */

/* Number of layers with a score; 0 if the package cannot score. */
size_t adabet_scored_layer_count(const adabet_package *package);
const char *adabet_scored_layer(const adabet_package *package, size_t layer);

/* Called after each sample, and after each layer. A return value other than 0 ends the call with ADABET_CANCELLED. */
typedef int (*adabet_count_watch)(size_t done, size_t all, void *user);

/* Computes b1_hat of each layer from forward passes of single samples, without labels. scores needs room for all. */
adabet_code adabet_score(adabet_package *package, const adabet_data *data, adabet_count_watch watch, void *user,
                         double *scores, adabet_error *error);

/* Chooses the entry with the highest sum of scores among those that need at most this memory at this batch size. */
adabet_code adabet_choose(const adabet_package *package, const double *scores, size_t batch, uint64_t memory,
                          size_t *entry, adabet_error *error);

/* ---- fit --------------------------------------------------------------------------------------------------------- */

typedef struct adabet_model adabet_model; /* an entry with its trained values */

typedef struct {
    size_t epoch, epochs; /* counted from 1 */
    uint64_t step;        /* over all epochs, counted from 1 */
    size_t steps;         /* in an epoch */
    bool epoch_done;      /* an extra call after the epoch's last step, once progress is stored */
    double loss; /* of the step; with epoch_done, the mean over the epoch's samples */
    double held_out_loss, held_out_accuracy; /* with epoch_done; NaN if there are no held-out samples */
} adabet_progress;

/* Called after each step and each epoch, by the thread that called adabet_fit: training is paused until it returns.
 * A return value other than 0 ends training with ADABET_CANCELLED. */
typedef int (*adabet_fit_watch)(const adabet_progress *progress, void *user);

typedef struct {
    size_t entry;
    double learning_rate;
    size_t batch_size, epochs;
    uint32_t seed;
    const char *progress;        /* a file written after each epoch; training resumes from it if it exists; may be NULL */
    const adabet_data *held_out; /* evaluated after each epoch; may be NULL */
    adabet_fit_watch watch;      /* may be NULL */
    void *user;
} adabet_fit_options;

/* The defaults of the package, for its first entry. */
adabet_fit_options adabet_fit_defaults(const adabet_package *package);

/* On success *made is the trained model. After ADABET_CANCELLED and ADABET_NOT_FINITE it is that of the last complete
 * epoch, or NULL if there was none; after other errors NULL. Free it with adabet_model_free. */
adabet_code adabet_fit(adabet_package *package, const adabet_data *data, const adabet_fit_options *options,
                       adabet_model **made, adabet_error *error);

/* ---- models ------------------------------------------------------------------------------------------------------ */

/* An entry with the package's initial values. */
adabet_code adabet_initial(adabet_package *package, size_t entry, adabet_model **made, adabet_error *error);

/* Loads a delta, or a progress file of this package. */
adabet_code adabet_load(adabet_package *package, const char *path, adabet_model **made, adabet_error *error);

void adabet_model_free(adabet_model *model); /* model may be NULL */
size_t adabet_model_entry(const adabet_model *model);

/* outputs has one buffer for all samples per output of the model; those whose data is NULL are skipped. */
typedef struct {
    void *data;
    size_t bytes;
} adabet_room;
adabet_code adabet_predict(adabet_model *model, const adabet_data *data, const adabet_room *outputs,
                           adabet_error *error);

/* Files are written atomically: to a temporary file, which then replaces an existing one. */
adabet_code adabet_save_delta(const adabet_model *model, const char *path, adabet_error *error);
adabet_code adabet_save_selected(const adabet_model *model, const char *path, adabet_error *error);

#ifdef __cplusplus
}
#endif
#endif
