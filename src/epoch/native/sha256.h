/* SHA-256 (FIPS 180-4) with a state that can be taken out and put back.
 *
 * No allocation, no locks, no global state after epoch_sha256_setup(): any number of contexts may
 * be hashed at once from different threads.
 */
#ifndef EPOCH_SHA256_H
#define EPOCH_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define EPOCH_SHA256_BLOCK 64
#define EPOCH_SHA256_DIGEST 32

/* The constants of the 64 rounds; one table for all implementations. */
extern const uint32_t epoch_sha256_k[64] __attribute__((visibility("hidden")));

typedef struct {
    uint32_t h[8];                         /* chaining value after the whole blocks so far */
    uint64_t length;                       /* bytes hashed so far, pending ones included */
    uint8_t pending[EPOCH_SHA256_BLOCK];   /* the first length % 64 bytes are waiting */
} epoch_sha256;

/* Choose the fastest implementation that this CPU has; to be called once, before all else. */
void epoch_sha256_setup(void);

/* "sha-ni", "armv8" or "portable". */
const char *epoch_sha256_implementation(void);

void epoch_sha256_init(epoch_sha256 *ctx);
void epoch_sha256_update(epoch_sha256 *ctx, const void *data, size_t length);

/* Write the digest of what has been hashed so far; `ctx` is not changed. */
void epoch_sha256_final(const epoch_sha256 *ctx, uint8_t digest[EPOCH_SHA256_DIGEST]);

/* The same functions with the implementation named, for tests that compare them. NULL where this
 * build or this CPU does not have it. */
typedef void (*epoch_sha256_blocks)(uint32_t h[8], const uint8_t *data, size_t blocks);
epoch_sha256_blocks epoch_sha256_find(const char *name);

#endif
