/* ONNX Runtime's C API, wherever its header is: in the framework of onnxruntime-swift-package-manager, in Debian's
 * /usr/include/onnxruntime, or in a folder that is searched itself. */
#ifndef ADABET_C_ONNXRUNTIME_H
#define ADABET_C_ONNXRUNTIME_H

#if __has_include(<onnxruntime/onnxruntime_c_api.h>)
#include <onnxruntime/onnxruntime_c_api.h>
#else
#include <onnxruntime_c_api.h>
#endif

#endif
