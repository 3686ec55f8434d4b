/* Gates as plain bits, in the order of the neurons: what packed convolutions take (pack.c). */
#include "bits.h"
#include "gates.h"

/* One row of gates as words, of which there are `count`; returns how many bits are set. */
static int64_t row_words(const uint8_t *row, int64_t count, uint64_t *words) {
    uint64_t turned[8];
    int64_t set = 0;
    for (int i = 0; i < 8; i++) {
        uint64_t eight;
        memcpy(&eight, row + 8 * i, sizeof(eight));
        turned[i] = transposed(eight);
    }
    for (int64_t word = 0; word < count; word++) {
        uint64_t bits = 0;
        for (int i = 0; i < 8; i++) bits |= (turned[i] >> (8 * word) & 0xFF) << (8 * i);
        words[word] = bits;
        set += __builtin_popcountll(bits);
    }
    return set;
}

/* words [T][N / 64] of neurons of one level, whose gates lie in blocks of `block` neurons: whether they fired, where `fired` is
 * set, or whether their window was open. Returns how many; -1 where N or a block is no multiple of 64. */
int64_t isospike_gate_bits(int64_t T, int64_t N, int64_t block, const uint8_t *gates, int64_t fired, uint64_t *words,
                           int64_t threads) {
    int64_t bytes = bits_of(block), set = 0;
    if (N % WORD || block % WORD) return -1;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : set)
    for (int64_t start = 0; start < N; start += block) {
        int64_t n = N - start < block ? N - start : block;
        for (int64_t t = 0; t < T; t++) {
            const uint8_t *rows = gates + ((start / block * T + t) * 2 + (fired ? 1 : 0)) * bytes;
            for (int64_t from = 0; from < n; from += ROW) {
                int64_t count = (n - from < ROW ? n - from : ROW) / WORD;
                set += row_words(rows + from / 8, count, words + (t * N + start + from) / WORD);
            }
        }
    }
    return set;
}
