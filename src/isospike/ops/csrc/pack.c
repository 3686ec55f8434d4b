/* Small integers kept small: tensors of {0, 1} at one bit per element, of {0, ..., 255} at one byte.
 *
 * Bits are kept by blocks of 2048 elements in 64 words of 32 bits: element i of a block is bit i / 64 of word i % 64, so that
 * neighbours lie in neighbouring words and the loops run over vectors. Packing checks every value and says where one does not
 * fit.
 */
#include <string.h>

#include "rule.h"

#define LANES 64
#define PACK 2048 /* elements of a block */

/* Returns 1 where all n <= PACK values are 0 or 1. */
ALL_MACHINES
int pack_block(const float *restrict x, int n, uint32_t *restrict words) {
    uint32_t other = 0, bits[LANES] = {0}, odd[LANES] = {0};
    for (int row = 0; row < n / LANES; row++)
        for (int i = 0; i < LANES; i++) {
            float value = x[row * LANES + i];
            bits[i] |= (uint32_t)(value != 0.0f) << row;
            odd[i] |= (uint32_t)((value != 0.0f) & (value != 1.0f));
        }
    for (int i = 0; i < n % LANES; i++) {
        float value = x[n / LANES * LANES + i];
        bits[i] |= (uint32_t)(value != 0.0f) << (n / LANES);
        odd[i] |= (uint32_t)((value != 0.0f) & (value != 1.0f));
    }
    for (int i = 0; i < LANES; i++) other |= odd[i];
    memcpy(words, bits, sizeof(bits));
    return !other;
}

ALL_MACHINES
void unpack_block(const uint32_t *restrict words, int n, float *restrict x) {
    for (int row = 0; row < n / LANES; row++)
        for (int i = 0; i < LANES; i++) x[row * LANES + i] = (float)(int32_t)((words[i] >> row) & 1);
    for (int i = 0; i < n % LANES; i++) x[n / LANES * LANES + i] = (float)(int32_t)((words[i] >> (n / LANES)) & 1);
}

ALL_MACHINES
int bytes_block(const float *restrict x, int n, uint8_t *restrict bytes) {
    int32_t other = 0;
    for (int i = 0; i < n; i++) {
        float value = x[i] < 0 ? 0 : (x[i] > 255 ? 255 : x[i]);
        int32_t integer = (int32_t)value;
        bytes[i] = (uint8_t)integer;
        other |= (float)integer != x[i];
    }
    return !other;
}

static int size_from(int64_t from, int64_t N) { return (int)(N - from < PACK ? N - from : PACK); }

int64_t isospike_words(int64_t N) { return (N + PACK - 1) / PACK * LANES; }

/* words [isospike_words(N)]. Returns 1 where every value fitted; otherwise what it wrote is of no use. */
int isospike_pack_bits(int64_t N, const float *x, uint32_t *words, int64_t threads) {
    int fits = 1;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(& : fits)
    for (int64_t from = 0; from < N; from += PACK)
        if (fits) fits = pack_block(x + from, size_from(from, N), words + from / PACK * LANES);
    return fits;
}

void isospike_unpack_bits(int64_t N, const uint32_t *words, float *x, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t from = 0; from < N; from += PACK) unpack_block(words + from / PACK * LANES, size_from(from, N), x + from);
}

/* bytes [N]. Returns 1 where every value fitted. */
int isospike_pack_bytes(int64_t N, const float *x, uint8_t *bytes, int64_t threads) {
    int fits = 1;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(& : fits)
    for (int64_t from = 0; from < N; from += PACK)
        if (fits) fits = bytes_block(x + from, size_from(from, N), bytes + from);
    return fits;
}
