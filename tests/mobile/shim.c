/* The symbols of Android's libc that libonnxruntime4j_jni.so of the Android package (x86_64) needs, for glibc: built as
 * libc.so, libm.so and libdl.so, it lets tests run the Java API of that package on Linux. It is for tests only. */
#include <stddef.h>

extern void *__libc_malloc(size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void __libc_free(void *old);

void *malloc(size_t bytes) { return __libc_malloc(bytes); }
void *realloc(void *old, size_t bytes) { return __libc_realloc(old, bytes); }
void free(void *old) { __libc_free(old); }

void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
    return __builtin___memmove_chk(to, from, bytes, (size_t)-1);
}

size_t strlen(const char *text) {
    size_t length = 0;
    while (((const volatile char *)text)[length] != 0) length++;
    return length;
}

int __cxa_atexit(void (*function)(void), void *argument, void *library) {
    (void)function, (void)argument, (void)library;
    return 0;
}

void __cxa_finalize(void *library) { (void)library; }

int __register_atfork(void (*before)(void), void (*parent)(void), void (*child)(void), void *library) {
    (void)before, (void)parent, (void)child, (void)library;
    return 0;
}

void __stack_chk_fail(void) { __builtin_trap(); }

int dlclose(void *library) {
    (void)library;
    return 0;
}

/* Not in the library for Linux, and not called. */
void *OrtSessionOptionsAppendExecutionProvider_Nnapi(void *options, unsigned flags) {
    (void)options, (void)flags;
    return NULL;
}
