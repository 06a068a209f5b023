/* SHA-256 (FIPS 180-4). */
#ifndef ADABET_SHA256_H
#define ADABET_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t state[8];
    uint64_t bytes;
    unsigned char block[64];
} sha256;

#define SHA256_HEX 65 /* with the terminating 0 */

void ab_sha256_begin(sha256 *hash);
void ab_sha256_add(sha256 *hash, const void *data, size_t bytes);
void ab_sha256_end(sha256 *hash, char hex[SHA256_HEX]);

#endif
