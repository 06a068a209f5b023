/* SwiftPM accepts a C target only if it has a source file. */
#include "COnnxRuntime.h"
