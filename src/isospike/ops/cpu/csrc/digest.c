/* A number of 64 bits that tells whether memory still holds what it held: 32 hashes side by side, so that it goes as fast as memory is
 * read (the round is that of Collet's xxHash, www.xxhash.com), then one of these. A change in one of them always shows; several go
 * unseen together by chance alone. */
#include <string.h>

#include "rule.h"

#define SIDE 32 /* hashes */

INLINE void hash_in(uint32_t *restrict hash, const uint32_t *restrict x) {
    for (int i = 0; i < SIDE; i++) {
        uint32_t sum = hash[i] + x[i] * 2246822519u;
        hash[i] = (sum << 13 | sum >> 19) * 2654435761u;
    }
}

static uint64_t digest(const char *data, int64_t bytes) {
    uint32_t hash[SIDE], x[SIDE] = {0};
    uint64_t all = (uint64_t)bytes;
    for (int i = 0; i < SIDE; i++) hash[i] = (uint32_t)i;
    int64_t at = 0;
    for (; at + (int64_t)sizeof(x) <= bytes; at += sizeof(x)) {
        memcpy(x, data + at, sizeof(x));
        hash_in(hash, x);
    }
    if (at < bytes) {
        memset(x, 0, sizeof(x));
        memcpy(x, data + at, bytes - at);
        hash_in(hash, x);
    }
    for (int i = 0; i < SIDE; i++) {
        all = (all ^ hash[i]) * 11400714785074694791ull;
        all ^= all >> 29;
    }
    return all;
}

/* Of `count` pieces of memory. */
EXPORT void isospike_digest(int64_t count, const char *const *data, const int64_t *bytes, uint64_t *digests, int64_t threads) {
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int64_t i = 0; i < count; i++) digests[i] = digest(data[i], bytes[i]);
}
