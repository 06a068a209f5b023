/* SwiftPM takes a target for C only if it has a source. */
#include "COnnxRuntime.h"
