/* Small integers kept small: tensors of {0, 1} at one bit per element, of {0, ..., 255} at one byte.
 *
 * Element i is bit i % 8 of byte i / 8, in words of 64. Packing checks every value and says where one does not fit.
 */
#include <string.h>

#include "bits.h"

#define ELEMENTS 2048 /* that one thread does at a time */

/* Eight bytes at a time: the lowest bit of each says whether it is not 0, and a product brings these bits side by side. */
static int64_t bits_any(const uint8_t *bytes, int64_t n, uint64_t *words) {
    int64_t count = 0;
    for (int64_t from = 0; from < n; from += WORD) {
        uint64_t bits = 0;
        for (int64_t i = from; i < from + WORD && i < n; i += 8) {
            uint64_t eight = 0;
            memcpy(&eight, bytes + i, n - i < 8 ? n - i : 8);
            eight |= eight >> 4, eight |= eight >> 2, eight |= eight >> 1;
            bits |= ((eight & 0x0101010101010101ull) * 0x0102040810204080ull) >> 56 << (i - from);
        }
        words[from / WORD] = bits;
        count += __builtin_popcountll(bits);
    }
    return count;
}

/* Returns 1 where every value is an integer that fits. */
static int bytes_any(const float *restrict x, int64_t n, uint8_t *restrict bytes) {
    int other = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t integer = (int32_t)(x[i] >= 0 && x[i] <= 255 ? x[i] : 0); /* of others no integer is defined */
        bytes[i] = (uint8_t)integer;
        other |= (float)integer != x[i];
    }
    return !other;
}

/* Writes the bits of n <= ELEMENTS values that are 0 or 1, and returns how many are 1; -1 where a value is neither. */
static int64_t pack_block(const float *x, int64_t n, uint64_t *words) {
    int64_t ones = 0;
    uint64_t odd = 0;
    for (int64_t from = 0; from < n && !odd; from += WORD) {
        float last[WORD] = {0};
        int whole = n - from >= WORD;
        if (!whole) memcpy(last, x + from, sizeof(float) * (n - from));
        words[from / WORD] = pack_word(whole ? x + from : last, &odd);
        ones += __builtin_popcountll(words[from / WORD]);
    }
    return odd ? -1 : ones;
}

#if LANES > 4
static int64_t bits_block(const uint8_t *bytes, int64_t n, uint64_t *words) {
    int64_t count = 0, from = 0;
    for (; from + WORD <= n; from += WORD) {
        uint32_t none[2];
        for (int i = 0; i < 2; i++) {
            __m256i values = _mm256_loadu_si256((const __m256i *)(bytes + from + 32 * i));
            none[i] = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(values, _mm256_setzero_si256()));
        }
        words[from / WORD] = ~(none[0] | (uint64_t)none[1] << 32);
        count += __builtin_popcountll(words[from / WORD]);
    }
    return count + bits_any(bytes + from, n - from, words + from / WORD);
}

static int bytes_block(const float *x, int64_t n, uint8_t *bytes) {
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* packing goes by halves of a register */
    __m256i bits = _mm256_setzero_si256(), equal = _mm256_set1_epi32(-1);
    int64_t from = 0;
    for (; from + 32 <= n; from += 32) {
        __m256i i[4];
        for (int k = 0; k < 4; k++) {
            __m256 values = _mm256_loadu_ps(x + from + 8 * k);
            i[k] = _mm256_cvttps_epi32(values);
            bits = _mm256_or_si256(bits, i[k]);
            equal = _mm256_and_si256(equal, _mm256_castps_si256(_mm256_cmp_ps(_mm256_cvtepi32_ps(i[k]), values, _CMP_EQ_OQ)));
        }
        __m256i packed = _mm256_packus_epi16(_mm256_packus_epi32(i[0], i[1]), _mm256_packus_epi32(i[2], i[3]));
        _mm256_storeu_si256((__m256i *)(bytes + from), _mm256_permutevar8x32_epi32(packed, in_order));
    }
    int fit = _mm256_testz_si256(bits, _mm256_set1_epi32(~255)) && _mm256_movemask_epi8(equal) == -1;
    return fit & bytes_any(x + from, n - from, bytes + from);
}
#else
static int64_t bits_block(const uint8_t *bytes, int64_t n, uint64_t *words) { return bits_any(bytes, n, words); }
static int bytes_block(const float *x, int64_t n, uint8_t *bytes) { return bytes_any(x, n, bytes); }
#endif

static void unpack_block(const uint64_t *restrict words, int64_t n, float *restrict x) {
    for (int64_t word = 0; word < n / WORD; word++) unpack_word(words[word], WORD, x + WORD * word);
    if (n % WORD) unpack_word(words[n / WORD], (int)(n % WORD), x + n / WORD * WORD);
}

static int64_t size_from(int64_t from, int64_t N) { return N - from < ELEMENTS ? N - from : ELEMENTS; }

/* words [N / 64, rounded up]. Returns how many values are 1; -1 where one is neither 0 nor 1 and what it wrote is of no use. */
EXPORT int64_t isospike_pack_bits(int64_t N, const float *x, uint64_t *words, int64_t threads) {
    int64_t ones = 0;
    int fits = 1;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(& : fits) reduction(+ : ones)
    for (int64_t from = 0; from < N; from += ELEMENTS) {
        if (!fits) continue;
        int64_t fired = pack_block(x + from, size_from(from, N), words + from / WORD);
        ones += fired, fits = fired >= 0;
    }
    return fits ? ones : -1;
}

EXPORT void isospike_unpack_bits(int64_t N, const uint64_t *words, float *x, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t from = 0; from < N; from += ELEMENTS)
        unpack_block(words + from / WORD, size_from(from, N), x + from);
}

/* Which of N bytes are not 0: words [N / 64, rounded up]. Returns how many. */
EXPORT int64_t isospike_bits_of_bytes(int64_t N, const uint8_t *bytes, uint64_t *words, int64_t threads) {
    int64_t count = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : count)
    for (int64_t from = 0; from < N; from += ELEMENTS)
        count += bits_block(bytes + from, size_from(from, N), words + from / WORD);
    return count;
}

/* bytes [N]. Returns 1 where every value fitted. */
EXPORT int64_t isospike_pack_bytes(int64_t N, const float *x, uint8_t *bytes, int64_t threads) {
    int fits = 1;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(& : fits)
    for (int64_t from = 0; from < N; from += ELEMENTS)
        if (fits) fits = bytes_block(x + from, size_from(from, N), bytes + from);
    return fits;
}
