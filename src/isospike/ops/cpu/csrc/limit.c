/* What a machine adds at most: vectors of floats that the innermost cache holds, each read and added. */
#include "rule.h"
#include "vectors.h"

#define HELD (8 * SUMS * LANES) /* floats, 4 KB at most */
#define SUMS 8                  /* vectors, so many that no addition waits for the one before */

/* Adds up as many floats as `rounds` rounds of `isospike_additions_of_round` have, in every thread. */
EXPORT void isospike_additions(int64_t rounds, float *sum, int64_t threads) {
    float all = 0;
#pragma omp parallel num_threads(threads) reduction(+ : all)
    {
        _Alignas(64) float held[HELD];
        for (int i = 0; i < HELD; i++) held[i] = (float)(i % 3);
        in_register sums[SUMS] = {{0}};
        for (int64_t round = 0; round < rounds; round++)
            for (int i = 0; i < HELD; i += SUMS * LANES)
#pragma GCC unroll 8
                for (int k = 0; k < SUMS; k++) sums[k] += AT(held + i + k * LANES);
        for (int k = 0; k < SUMS; k++)
            for (int i = 0; i < LANES; i++) all += sums[k][i];
    }
    *sum = all;
}

EXPORT int64_t isospike_additions_of_round(void) { return HELD; }
