/* Dense convolutions, 3x3 padded by 1, stride 1, channels last, with fewer products, by Winograd's F(2x2, 3x3) and F(4x4, 3x3)
 * (Lavin and Gray 2016, arXiv:1509.09308, section 4): a square of 4x4 inputs makes 2x2 outputs with 16 products per pair of
 * channels, one of 6x6 makes 4x4 with 36; sums over the taps take 36 and 144. Sums run over C products in place of 9 C.
 *
 * The transforms of the first have the coefficients 1, -1 and 1/2, so that they are exact on dyadic numbers. Those of the second
 * belong to the points 0, 1, -1, 1/2 and -2, which round less than 0, 1, -1, 2 and -2 (Barabasz and others 2020,
 * arXiv:1803.10986), and yet some three times as much as the plain sums do.
 *
 * Squares are numbered along their rows, rows one behind the other through all images. Some rows of squares are done at a time:
 * their inputs are transformed into [places][C / lanes][squares][lanes], multiplied for each place with the weights
 * [block][places][C][block of filters], and the products [places][squares][block] transformed into outputs. Every sum over channels
 * has one order: bits depend neither on threads nor on the batch.
 */
#pragma once
#include "recurrence.h"

#define GROUP 16       /* squares are multiplied so many at a time, or a part of it */
#define LARGEST_SIDE 4 /* of the outputs of a square */
#define LARGEST_REACH (LARGEST_SIDE + 2)

struct maps {
    int64_t N, C, H, W, O; /* C and O are multiples of LANES */
    int64_t side;          /* of the outputs of a square: 2 or 4 */
};

/* Vectors of a block of filters, and the block. */
static inline int wide_of(const struct maps *s) { return s->O % (2 * LANES) ? 1 : 2; }
static inline int64_t block_of(const struct maps *s) { return wide_of(s) * LANES; }

/* Rows of inputs of a square, and how many they are in all. */
static inline int64_t reach_of(const struct maps *s) { return s->side + 2; }
static inline int64_t places_of(const struct maps *s) { return reach_of(s) * reach_of(s); }

/* The rows of inputs under a row of squares, for one block of channels: those outside have a step of 0 and point at zeros. */
struct under {
    const float *row[LARGEST_REACH];
    int64_t step[LARGEST_REACH], width;
};

/* Where a row of squares goes: rows behind the end of the map are NULL; all have `width` pixels of O. */
struct over_rows {
    float *row[LARGEST_SIDE];
    int64_t width, O;
};

/* The inner loops, in vectors: winograd_lanes.c; the transforms, and the products between them. */
void winograd_weights(const float *taps, int64_t place_step, int wide, int64_t side, float *to);
void winograd_inputs(const struct under *from, int64_t squares, int64_t place_step, int64_t side, float *to);
void winograd_products(const float *inputs, int64_t channels, int64_t channel_step, const float *weights, int wide, float *to);
void winograd_outputs(const float *products, int64_t place_step, const float *bias, int64_t squares, int wide, int64_t side,
                      const struct over_rows *to);
