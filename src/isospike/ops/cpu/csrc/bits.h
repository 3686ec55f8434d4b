/* Spikes as bits: element i is bit i % 8 of byte i / 8. */
#pragma once
#include <string.h>

#include "rule.h"
#if LANES > 4
#include <immintrin.h>
#endif

#define WORD 64

/* Which of 64 values are not 0; bits are set in `odd` where some are neither 0 nor 1. */
INLINE uint64_t pack_word(const float *x, uint64_t *odd) {
    uint64_t bits = 0;
#if LANES == 16
    const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
    for (int i = 0; i < WORD; i += LANES) {
        __m512 values = _mm512_loadu_ps(x + i);
        uint64_t some = _mm512_cmp_ps_mask(values, zero, _CMP_NEQ_UQ);
        bits |= some << i, *odd |= some ^ _mm512_cmp_ps_mask(values, one, _CMP_EQ_OQ);
    }
#elif LANES == 8
    const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1.0f);
    for (int i = 0; i < WORD; i += LANES) {
        __m256 values = _mm256_loadu_ps(x + i);
        uint64_t some = (uint64_t)_mm256_movemask_ps(_mm256_cmp_ps(values, zero, _CMP_NEQ_UQ));
        bits |= some << i, *odd |= some ^ (uint64_t)_mm256_movemask_ps(_mm256_cmp_ps(values, one, _CMP_EQ_OQ));
    }
#else
    for (int i = 0; i < WORD; i++) {
        uint64_t some = x[i] != 0.0f;
        bits |= some << i, *odd |= some ^ (x[i] == 1.0f);
    }
#endif
    return bits;
}

/* The first n of 64 bits as 0 and 1. */
INLINE void unpack_word(uint64_t word, int n, float *restrict x) {
    const uint32_t halves[2] = {(uint32_t)word, (uint32_t)(word >> 32)};
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 32 && 32 * half + i < n; i++) x[32 * half + i] = (float)(int32_t)((halves[half] >> i) & 1);
}

/* n values, a multiple of 8: which of them are not 0. */
INLINE void pack_values(const float *x, int n, uint8_t *bits) {
    uint64_t odd = 0, word;
    int from = 0;
    for (; from + WORD <= n; from += WORD) {
        word = pack_word(x + from, &odd);
        memcpy(bits + from / 8, &word, sizeof(word));
    }
    if (from == n) return;
    float last[WORD] = {0};
    memcpy(last, x + from, sizeof(float) * (n - from));
    word = pack_word(last, &odd);
    memcpy(bits + from / 8, &word, (n - from) / 8);
}

/* n values of 0 and 1, a multiple of 8. */
INLINE void unpack_values(const uint8_t *bits, int n, float *restrict x) {
    uint64_t word;
    int from = 0;
    for (; from + WORD <= n; from += WORD) {
        memcpy(&word, bits + from / 8, sizeof(word));
        unpack_word(word, WORD, x + from);
    }
    if (from == n) return;
    word = 0;
    memcpy(&word, bits + from / 8, (n - from) / 8);
    unpack_word(word, n - from, x + from);
}

/* n numbers of a map from element `at` on as floats; `width`: bits of an element, as in infer.c. */
INLINE void take_floats(const void *map, int64_t width, int64_t at, int64_t n, float *restrict to) {
    const uint8_t *restrict bytes = map;
    if (width == 32)
        memcpy(to, (const float *)map + at, sizeof(float) * n);
    else if (width == 1)
        unpack_values(bytes + at / 8, (int)n, to);
    else
        for (int64_t i = 0; i < n; i++) to[i] = bytes[at + i];
}
