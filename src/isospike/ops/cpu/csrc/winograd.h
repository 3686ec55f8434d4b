/* Dense convolutions, 3x3 padded by 1, stride 1, channels last, by Winograd's F(2x2, 3x3): a square of 4x4 inputs makes 2x2
 * outputs with 16 products per pair of channels, where sums over the taps take 36 (Lavin and Gray 2016, arXiv:1509.09308, section
 * 4.1). The transforms have the coefficients 1, -1 and 1/2, so that they are exact on dyadic numbers, and sums run over C products
 * in place of 9 C.
 *
 * Squares are numbered along their rows, rows one behind the other through all images. Some rows of squares are done at a time:
 * their inputs are transformed into [16 places][C / lanes][squares][lanes], multiplied for each place with the weights
 * [block][16][C][block of filters], and the products [16][squares][block] transformed into outputs. Every sum over channels has one
 * order: bits depend neither on threads nor on the batch.
 */
#pragma once
#include "recurrence.h"

#define GROUP 16 /* squares are multiplied so many at a time, or a part of it */

struct maps {
    int64_t N, C, H, W, O; /* C and O are multiples of LANES */
};

/* Vectors of a block of filters, and the block. */
static inline int wide_of(const struct maps *s) { return s->O % (2 * LANES) ? 1 : 2; }
static inline int64_t block_of(const struct maps *s) { return wide_of(s) * LANES; }

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

/* The inner loops, in vectors: winograd_lanes.c; the transforms, and the products between them. */
void winograd_weights(const float *taps, int64_t place_step, int wide, float *to);
void winograd_inputs(const struct under *from, int64_t squares, int64_t place_step, float *to);
void winograd_products(const float *inputs, int64_t channels, int64_t channel_step, const float *weights, int wide, float *to);
void winograd_outputs(const float *products, int64_t place_step, const float *bias, int64_t squares, int wide,
                      const struct over_rows *to);
