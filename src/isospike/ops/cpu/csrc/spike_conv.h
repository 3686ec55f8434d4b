/* Convolutions of spikes that add a weight where there is a spike, and do nothing where there is none: their time falls with the
 * rate of firing. 3x3 padded by 1, or 1x1; stride 1 or 2; channels last; C a multiple of 8.
 *
 * Spikes are bits, [N][H][W][C] in this order, so that one word names the channels that fired at a pixel. Output channels are
 * done a block at a time, the weights of a block and 64 input channels in the innermost cache. Every input pixel adds to the
 * pixels that it reaches (spike_conv.c), or takes their gradient (spike_conv_weight.c), in vectors over the block's channels:
 * registers hold nine of them at stride 1. At stride 2 the pixels reach 1, 2 or 4, by the parity of row and column, so weights are
 * kept by parity. The order of every sum is fixed by the shape: bits do not depend on the number of threads, nor those of an
 * output on the batch.
 */
#pragma once
#include <string.h>

#include "bits.h"
#include "recurrence.h"

/* `cell`: bytes of a number that is added up: sizeof(float), or sizeof(int16_t) where weights are integers, for spikes alone.
 * `table`: whether weights are kept as the 16 sums that any 4 channels may make, for spikes alone. */
struct geometry {
    int64_t N, C, H, W, O, kernel, stride, cell, table;
};

/* What fired: bits, [N][H][W][C], 8 bytes behind which may be read; and how often, in bytes, NULL where it is once. */
struct spikes {
    const uint8_t *fired, *counts;
};

/* What is handed to the inner loops: pixels of a row of one parity, `apart` elements from each other; their bits, of which those
 * in `mask` are looked at, and their counts; `to`: where the first of them reaches, one block further for each, `to_step` from
 * one row to the next. */
struct row {
    const uint8_t *fired, *counts;
    int64_t apart, pixels, to_step, fours;
    uint64_t mask;
    const void *w;
    void *to;
};

/* Where one channel fired in a tile, in words of 64 pixels: `place` is where each of them reaches in g; its count lies
 * pixel * apart behind the first. */
struct channel {
    const uint64_t *fired;
    const uint8_t *counts;
    int64_t words, apart, g_step;
    const int32_t *pixel, *place;
    const float *g;
};

/* A row of sums, `block` of them for a pixel, in floats, or in 16-bit integers that are added to what there is in `wide`, NULL
 * where that is nothing; `filters` of each, scaled and shifted, go to `out`, whose pixels lie O apart, or onto what is there. */
struct put {
    const void *from;
    const int32_t *wide;
    const float *scale, *bias;
    float *out;
    int64_t block, O;
    int filters, integer, onto;
};

/* The inner loops, in vectors: spike_lanes.c. */
void spike_scatter(const struct geometry *s, const struct row *row, int rows, int cols);
void spike_gather(const struct channel *channel, float *sums, int rows, int cols, int wide);
void spike_take_row(const float *g, int64_t O, int64_t pixels, int wide, float *to);
void spike_put_row(const struct put *put, int64_t pixels);
void spike_widen(int16_t *sums, int32_t *wide, int64_t n);

/* Shapes ---------------------------------------------------------------------------------------------------------------- */


static inline int64_t out_size(const struct geometry *s, int64_t size) { return over(size, s->stride); }
static inline int is_integer(const struct geometry *s) { return s->cell < (int64_t)sizeof(float); }

/* Vectors of a block; of integers, of which a vector has twice as many, half as many. Few filters fill but half a vector. */
static inline int wide_of(const struct geometry *s) {
    int wide = s->kernel == 1 ? 4 : s->stride == 1 ? 1 : 2;
    return is_integer(s) ? (wide + 1) / 2 : wide;
}
static inline int is_half(const struct geometry *s) { return is_integer(s) && s->O <= LANES && wide_of(s) == 1; }
static inline int64_t block_of(const struct geometry *s) { return wide_of(s) * (VECTOR >> is_half(s)) / s->cell; }
static inline int64_t blocks_of(const struct geometry *s) { return over(s->O, block_of(s)); }
static inline int64_t width_of(const struct geometry *s) { return (out_size(s, s->W) + 2) * block_of(s); } /* a row of a tile */

/* What the pixels of one parity reach along an axis: pixel stride * q + parity reaches outputs q + first, q + first + 1, ...,
 * through these taps of the kernel. */
struct reach {
    int count, first, taps[3];
};

static inline struct reach reach_of(const struct geometry *s, int parity) {
    struct reach reach = {0};
    for (int tap = (int)s->kernel - 1; tap >= 0; tap--) {
        int distance = parity + (int)s->kernel / 2 - tap;
        if (distance % s->stride) continue;
        if (!reach.count) reach.first = distance / (int)s->stride;
        reach.taps[reach.count++] = tap;
    }
    return reach;
}

/* Rows of weights: one for each channel, or 16 for four of them. */
static inline int64_t rows_of(const struct geometry *s) { return s->table ? 4 * s->C : s->C; }

/* Rows and columns of a pixel of one parity, its weights [C][rows][cols][block] at `at` in those of a block. */
struct parity {
    int py, px;
    struct reach rows, cols;
    int64_t at;
};

static inline int parities_of(const struct geometry *s, struct parity *all) {
    int count = 0;
    int64_t at = 0;
    for (int py = 0; py < s->stride; py++)
        for (int px = 0; px < s->stride; px++) {
            struct parity parity = {py, px, reach_of(s, py), reach_of(s, px), at};
            if (!parity.rows.count || !parity.cols.count) continue;
            all[count++] = parity;
            at += rows_of(s) * parity.rows.count * parity.cols.count * block_of(s);
        }
    return count;
}

static inline int64_t weights_of_block(const struct geometry *s) { return rows_of(s) * s->kernel * s->kernel * block_of(s); }

/* Whole images, or some rows of one; rows are those of the output. */
struct tile {
    int64_t image, images, from, to;
};

struct tiling {
    int64_t images, rows, bands, count;
};

static inline struct tiling tiling_of(const struct geometry *s, int64_t bytes, int64_t most_images) {
    int64_t height = out_size(s, s->H), row = width_of(s) * s->cell, fit = larger(bytes / row, 8);
    struct tiling tiling = {1, height, 1, 0};
    if (height + 2 <= fit)
        tiling.images = larger(smaller(fit / (height + 2), most_images), 1);
    else
        tiling.bands = over(height, fit - 4), tiling.rows = over(height, tiling.bands);
    tiling.count = over(s->N, tiling.images) * tiling.bands;
    return tiling;
}

static inline struct tile tile_at(const struct geometry *s, const struct tiling *tiling, int64_t index) {
    int64_t image = index / tiling->bands * tiling->images, from = index % tiling->bands * tiling->rows;
    struct tile tile = {image, smaller(tiling->images, s->N - image), from, smaller(from + tiling->rows, out_size(s, s->H))};
    return tile;
}

/* The caller's weights, by four strides. */
struct weights {
    float *data;
    const int64_t *step; /* of O, C, rows, columns */
};

/* Where a block keeps the weights of one tap of the kernel: channel c at `at + c * apart`. */
struct tap {
    int y, x;
    int64_t at, apart;
};

static inline int taps_of(const struct geometry *s, struct tap *taps) {
    struct parity all[4];
    int parities = parities_of(s, all), count = 0;
    for (int k = 0; k < parities; k++)
        for (int i = 0; i < all[k].rows.count; i++)
            for (int j = 0; j < all[k].cols.count; j++) {
                int64_t apart = all[k].rows.count * all[k].cols.count * block_of(s);
                int64_t at = all[k].at + (i * all[k].cols.count + j) * block_of(s);
                taps[count++] = (struct tap){all[k].rows.taps[i], all[k].cols.taps[j], at, apart};
            }
    return count;
}
