/* Access to ONNX Runtime through version 17 of its C API, which later releases have too. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#ifndef ADABET_LINK_ONNXRUNTIME
#include <dlfcn.h>
#endif

#define API 17
#ifdef __APPLE__
#define LIBRARY "libonnxruntime.dylib"
#else
#define LIBRARY "libonnxruntime.so"
#endif

static adabet_code failed(const adabet_package *p, const char *what, OrtStatus *status, adabet_error *error) {
    adabet_code code = ab_fail(error, ADABET_RUNTIME, "ONNX Runtime, %s: %s", what, p->ort->GetErrorMessage(status));
    p->ort->ReleaseStatus(status);
    return code;
}

#define ORT_TRY(package, what, call) \
    do { \
        OrtStatus *ort_status = (call); \
        if (ort_status != NULL) return failed(package, what, ort_status, error); \
    } while (0)

/* The library stays loaded until the process ends: unloading it while its threads exit is not safe. */
static adabet_code find_library(const char *path, const OrtApiBase **base, adabet_error *error) {
#ifdef ADABET_LINK_ONNXRUNTIME
    (void)path;
    (void)error;
    *base = OrtGetApiBase();
#else
    const OrtApiBase *(ORT_API_CALL * get)(void);
    if (path == NULL) path = getenv("ADABET_ONNXRUNTIME");
    if (path == NULL || *path == 0) path = LIBRARY;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return ab_fail(error, ADABET_RUNTIME, "ONNX Runtime cannot be loaded: %s", dlerror());
    void *symbol = dlsym(library, "OrtGetApiBase");
    if (symbol == NULL) return ab_fail(error, ADABET_RUNTIME, "%s is not ONNX Runtime: it has no OrtGetApiBase", path);
    memcpy(&get, &symbol, sizeof get); /* ISO C has no cast from a data pointer to a function pointer */
    *base = get();
#endif
    return ADABET_OK;
}

/* Whether version, such as 1.30.0, is at least oldest, such as 1.17. */
static bool new_enough(const char *version, const char *oldest) {
    for (int part = 0; part < 2; part++) {
        char *after_version, *after_oldest;
        long have = strtol(version, &after_version, 10), want = strtol(oldest, &after_oldest, 10);
        if (have != want) return have > want;
        if (*after_version != '.' || *after_oldest != '.') return true;
        version = after_version + 1;
        oldest = after_oldest + 1;
    }
    return true;
}

adabet_code ab_runtime_open(adabet_package *p, const adabet_open_options *options, const char *oldest,
                            adabet_error *error) {
    const OrtApiBase *base = NULL;
    int threads = options != NULL && options->threads > 0 ? options->threads : 1;
    AB_TRY(find_library(options != NULL ? options->onnxruntime : NULL, &base, error));
    p->ort_version = base->GetVersionString();
    p->ort = new_enough(p->ort_version, "1.17") ? base->GetApi(API) : NULL;
    if (p->ort == NULL || !new_enough(p->ort_version, oldest))
        return ab_fail(error, ADABET_RUNTIME, "this is ONNX Runtime %.40s; the package needs %.40s or newer",
                       p->ort_version, new_enough("1.17", oldest) ? "1.17" : oldest);
    ORT_TRY(p, "start", p->ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "adabet", &p->env));
    ORT_TRY(p, "options", p->ort->CreateSessionOptions(&p->session_options));
    ORT_TRY(p, "threads", p->ort->SetIntraOpNumThreads(p->session_options, threads));
    ORT_TRY(p, "threads", p->ort->SetInterOpNumThreads(p->session_options, 1));
    ORT_TRY(p, "log level", p->ort->SetSessionLogSeverityLevel(p->session_options, ORT_LOGGING_LEVEL_FATAL));
    ORT_TRY(p, "memory",
            p->ort->DisableMemPattern(p->session_options)); /* otherwise one more block as large as a run */
    ORT_TRY(p, "memory", p->ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &p->cpu));
    return ADABET_OK;
}

void ab_runtime_close(adabet_package *p) {
    if (p->ort == NULL) return;
    if (p->cpu != NULL) p->ort->ReleaseMemoryInfo(p->cpu);
    if (p->session_options != NULL) p->ort->ReleaseSessionOptions(p->session_options);
    if (p->env != NULL) p->ort->ReleaseEnv(p->env);
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

const ab_value *ab_number(ONNXTensorElementDataType dtype) {
    static const ab_value real = {"a number", "float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, {0}, 0, 1, 4, 4};
    static const ab_value whole = {"a number", "int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {0}, 0, 1, 8, 8};
    return dtype == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? &whole : &real;
}

adabet_code ab_tensor_over(const adabet_package *p, const ab_value *value, void *data, size_t samples, OrtValue **made,
                           adabet_error *error) {
    int64_t shape[ADABET_MOST_DIMENSIONS];
    memcpy(shape, value->shape, sizeof shape);
    if (value->rank > 0 && shape[0] == 0) shape[0] = (int64_t)samples;
    else samples = 1;
    ORT_TRY(p, value->name,
            p->ort->CreateTensorWithDataAsOrtValue(p->cpu, data, value->bytes * samples, shape, value->rank,
                                                   value->dtype, made));
    return ADABET_OK;
}

adabet_code ab_tensor_floats(const adabet_package *p, OrtValue *value, size_t count, const char *name,
                             const float **numbers, adabet_error *error) {
    OrtTensorTypeAndShapeInfo *info;
    ONNXTensorElementDataType dtype = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t found = 0;
    void *data = NULL;
    ORT_TRY(p, name, p->ort->GetTensorTypeAndShape(value, &info));
    OrtStatus *status = p->ort->GetTensorElementType(info, &dtype);
    if (status == NULL) status = p->ort->GetTensorShapeElementCount(info, &found);
    p->ort->ReleaseTensorTypeAndShapeInfo(info);
    ORT_TRY(p, name, status);
    if (dtype != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || found != count)
        return ab_fail(error, ADABET_WRONG_SHAPE, "'%.80s' has %zu numbers; expected %zu of float32", name, found,
                       count);
    ORT_TRY(p, name, p->ort->GetTensorMutableData(value, &data));
    *numbers = data;
    return ADABET_OK;
}

void ab_tensors_free(const adabet_package *p, OrtValue **values, size_t count) {
    for (size_t i = 0; values != NULL && i < count; i++) {
        if (values[i] != NULL) p->ort->ReleaseValue(values[i]);
        values[i] = NULL;
    }
}

/* ---- graphs ------------------------------------------------------------------------------------------------------ */

static adabet_code check_type(const ab_graph *g, const OrtTypeInfo *info, const ab_slot *slot, adabet_error *error) {
    const OrtTensorTypeAndShapeInfo *tensor = NULL;
    ONNXTensorElementDataType dtype = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    ORT_TRY(g->package, slot->name, g->package->ort->CastTypeInfoToTensorInfo(info, &tensor));
    if (tensor != NULL) ORT_TRY(g->package, slot->name, g->package->ort->GetTensorElementType(tensor, &dtype));
    if (dtype != slot->dtype)
        return ab_fail(error, ADABET_WRONG_SHAPE, "%s: '%.80s' has another data type (ONNX's %d; expected %d)", g->file,
                       slot->name, (int)dtype, (int)slot->dtype);
    return ADABET_OK;
}

static adabet_code take_inputs(ab_graph *g, const ab_slot *ins, size_t count, adabet_error *error) {
    const OrtApi *ort = g->package->ort;
    OrtAllocator *allocator;
    OrtTypeInfo *info;
    size_t found;
    ORT_TRY(g->package, g->file, ort->GetAllocatorWithDefaultOptions(&allocator));
    ORT_TRY(g->package, g->file, ort->SessionGetInputCount(g->session, &found));
    g->inputs = calloc(found + 1, sizeof *g->inputs);
    g->slots = calloc(found + 1, sizeof *g->slots);
    g->fed = calloc(found + 1, sizeof *g->fed);
    if (g->inputs == NULL || g->slots == NULL || g->fed == NULL) return ab_no_memory(error);
    for (size_t i = 0; i < found; i++) {
        ORT_TRY(g->package, g->file, ort->SessionGetInputName(g->session, i, allocator, g->inputs + i));
        g->input_count = i + 1;
        size_t k = 0;
        while (k < count && strcmp(ins[k].name, g->inputs[i]) != 0) k++;
        if (k == count)
            return ab_fail(error, ADABET_WRONG_FILE, "%s has an input '%.80s' that device.json does not list",
                           g->file, g->inputs[i]);
        g->slots[i] = k;
        ORT_TRY(g->package, g->file, ort->SessionGetInputTypeInfo(g->session, i, &info));
        adabet_code code = check_type(g, info, ins + k, error);
        ort->ReleaseTypeInfo(info);
        if (code != ADABET_OK) return code;
    }
    return ADABET_OK;
}

/* Index of the output of this name in the graph; the number of outputs if there is none. */
static adabet_code find_output(const ab_graph *g, const char *name, size_t found, size_t *place, adabet_error *error) {
    const OrtApi *ort = g->package->ort;
    OrtAllocator *allocator;
    ORT_TRY(g->package, g->file, ort->GetAllocatorWithDefaultOptions(&allocator));
    for (*place = 0; *place < found; ++*place) {
        char *has;
        ORT_TRY(g->package, g->file, ort->SessionGetOutputName(g->session, *place, allocator, &has));
        bool same = strcmp(has, name) == 0;
        allocator->Free(allocator, has);
        if (same) break;
    }
    return ADABET_OK;
}

static adabet_code take_outputs(ab_graph *g, const ab_slot *outs, size_t count, adabet_error *error) {
    const OrtApi *ort = g->package->ort;
    OrtTypeInfo *info;
    size_t found, place;
    ORT_TRY(g->package, g->file, ort->SessionGetOutputCount(g->session, &found));
    g->outputs = calloc(count + 1, sizeof *g->outputs);
    if (g->outputs == NULL) return ab_no_memory(error);
    g->output_count = count;
    for (size_t k = 0; k < count; k++) {
        g->outputs[k] = outs[k].name;
        place = k; /* its place in the format, but any other will do */
        AB_TRY(find_output(g, outs[k].name, found, &place, error));
        if (place == found)
            return ab_fail(error, ADABET_WRONG_FILE, "%s has no output '%.80s', which device.json lists", g->file,
                           outs[k].name);
        ORT_TRY(g->package, g->file, ort->SessionGetOutputTypeInfo(g->session, place, &info));
        adabet_code code = check_type(g, info, outs + k, error);
        ort->ReleaseTypeInfo(info);
        if (code != ADABET_OK) return code;
    }
    return ADABET_OK;
}

adabet_code ab_graph_open(adabet_package *p, const ab_file *file, const ab_slot *ins, size_t in_count,
                          const ab_slot *outs, size_t out_count, ab_graph **made, adabet_error *error) {
    char *path = ab_path(p->folder, file->name);
    ab_graph *g = calloc(1, sizeof *g);
    *made = NULL;
    adabet_code code = path == NULL || g == NULL ? ab_no_memory(error) : ADABET_OK;
    if (code == ADABET_OK) {
        g->package = p;
        g->file = file->name;
        OrtStatus *status = p->ort->CreateSession(p->env, path, p->session_options, &g->session);
        if (status != NULL) code = failed(p, file->name, status, error);
    }
    if (code == ADABET_OK) code = take_inputs(g, ins, in_count, error);
    if (code == ADABET_OK) code = take_outputs(g, outs, out_count, error);
    free(path);
    if (code == ADABET_OK) *made = g;
    else ab_graph_close(g);
    return code;
}

void ab_graph_close(ab_graph *g) {
    OrtAllocator *allocator = NULL;
    if (g == NULL) return;
    if (g->package != NULL) {
        OrtStatus *status = g->package->ort->GetAllocatorWithDefaultOptions(&allocator);
        if (status != NULL) g->package->ort->ReleaseStatus(status);
        for (size_t i = 0; i < g->input_count && allocator != NULL; i++) allocator->Free(allocator, g->inputs[i]);
        if (g->session != NULL) g->package->ort->ReleaseSession(g->session);
    }
    free(g->inputs);
    free(g->slots);
    free(g->fed);
    free(g->outputs);
    free(g);
}

adabet_code ab_graph_run(ab_graph *g, OrtValue *const *ins, OrtValue **outs, adabet_error *error) {
    for (size_t i = 0; i < g->input_count; i++) g->fed[i] = ins[g->slots[i]];
    ORT_TRY(g->package, g->file,
            g->package->ort->Run(g->session, NULL, (const char *const *)g->inputs, g->fed, g->input_count, g->outputs,
                                 g->output_count, outs));
    return ADABET_OK;
}
