/* SHA-256 of up to 16 messages in lockstep: each instruction works on the same step of all of them.
 *
 * One message cannot be hashed faster than its chain of rounds allows; sixteen can, side by side.
 */
#ifndef EPOCH_SHA256_LANES_H
#define EPOCH_SHA256_LANES_H

#include "sha256.h"

typedef struct {
    epoch_sha256 *ctx;   /* of this message; no two lanes have the same */
    const uint8_t *data; /* what to hash next */
    size_t length;       /* bytes */
} epoch_sha256_lane;

/* From how many messages on it is faster to let them wait for one another and hash them in lockstep
 * than to hash each as it comes; 0 where this CPU has no lockstep. */
int epoch_sha256_lanes_worthwhile(void);

/* Update every lane's context with its data. The lanes' contents are undefined afterwards. */
void epoch_sha256_update_lanes(epoch_sha256_lane *lanes, size_t count);

#endif
