/* Included first in builds in which allocations of the library can fail: see try_packages.c. */
#include <stdlib.h>

void *failing_malloc(size_t bytes);
void *failing_calloc(size_t count, size_t bytes);
void *failing_realloc(void *old, size_t bytes);
int failing_memalign(void **made, size_t aligned, size_t bytes);

#define malloc failing_malloc
#define calloc failing_calloc
#define realloc failing_realloc
#define posix_memalign failing_memalign
