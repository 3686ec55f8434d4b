/* Dense convolutions, channels last, in multiples of the lanes of a vector: winograd.c, strided_gradient.c.
 *
 * Both gather what a group of output pixels needs into [places][C / lanes][pixels][lanes], multiply it with weights
 * [C][block of filters], and put the products [pixels][block] where they belong. Every sum over channels has one order: bits depend
 * neither on threads nor on the batch.
 */
#pragma once
#include "recurrence.h"

#define GROUP 16 /* pixels, or squares of them, are multiplied so many at a time, or a part of it */

struct dense {
    int64_t N, C, H, W, O; /* C and O are multiples of LANES */
};

/* Vectors of a block of filters, and the block. */
static inline int wide_of(const struct dense *s) { return s->O % (2 * LANES) ? 1 : 2; }
static inline int64_t block_of(const struct dense *s) { return wide_of(s) * LANES; }

/* The four rows of inputs under a row of squares, for one block of channels: those outside have a step of 0 and point at zeros. */
struct under {
    const float *row[4];
    int64_t step[4], width;
};

/* Where a row of squares goes: `second` is NULL where the map ends with the first row; both `width` pixels of O. */
struct over_rows {
    float *first, *second;
    int64_t width, O;
};

/* The inner loops, in vectors: dense_lanes.c; all but `products` are Winograd's transforms. */
void dense_weights(const float *taps, int64_t place_step, int wide, float *to);
void dense_inputs(const struct under *from, int64_t squares, int64_t place_step, float *to);
void dense_products(const float *inputs, int64_t channels, int64_t channel_step, const float *weights, int wide, float *to);
void dense_outputs(const float *products, int64_t place_step, const float *bias, int64_t squares, int wide,
                            const struct over_rows *to);
