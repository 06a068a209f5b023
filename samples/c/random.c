#include <stdlib.h>

#include "internal.h"

ab_random ab_random_of(uint32_t seed, uint32_t stream) {
    ab_random random = {seed + stream * UINT32_C(0x6C078965)};
    return random;
}

static uint32_t next(ab_random *random) {
    uint32_t z = random->state += UINT32_C(0x9E3779B9);
    z ^= z >> 16;
    z *= UINT32_C(0x85EBCA6B);
    z ^= z >> 13;
    z *= UINT32_C(0xC2B2AE35);
    return z ^ z >> 16;
}

uint32_t ab_random_below(ab_random *random, uint32_t n) {
    return (uint32_t)((uint64_t)next(random) * n >> 32);
}

void ab_shuffle(uint32_t *order, size_t n, uint32_t seed, uint32_t stream) {
    ab_random random = ab_random_of(seed, stream);
    for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    for (size_t i = n; i-- > 1;) {
        size_t j = ab_random_below(&random, (uint32_t)(i + 1));
        uint32_t kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

static int ascending(const void *a, const void *b) {
    size_t one = *(const size_t *)a, two = *(const size_t *)b;
    return (one > two) - (one < two);
}

void ab_subset(ab_random *random, size_t *all, size_t n, size_t m) {
    for (size_t i = 0; i < n; i++) all[i] = i;
    for (size_t i = 0; i < m; i++) {
        size_t j = i + ab_random_below(random, (uint32_t)(n - i)), kept = all[i];
        all[i] = all[j];
        all[j] = kept;
    }
    qsort(all, m, sizeof *all, ascending);
}
