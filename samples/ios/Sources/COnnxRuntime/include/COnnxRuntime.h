/* ONNX Runtime's C API, from the framework of onnxruntime-swift-package-manager, from Debian's
 * /usr/include/onnxruntime, or from another folder on the include path. */
#ifndef ADABET_C_ONNXRUNTIME_H
#define ADABET_C_ONNXRUNTIME_H

#if __has_include(<onnxruntime/onnxruntime_c_api.h>)
#include <onnxruntime/onnxruntime_c_api.h>
#else
#include <onnxruntime_c_api.h>
#endif

#endif
