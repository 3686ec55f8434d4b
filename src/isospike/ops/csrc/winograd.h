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

#define PLACES 16 /* of a square of 4x4 */
#define GROUP 16  /* squares are multiplied so many at a time, or a part of it */

struct dense {
    int64_t N, C, H, W, O, lanes; /* C and O are multiples of lanes */
};

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

/* The inner loops for vectors of so many floats: winograd_lanes.h. `wide`: vectors of a block of filters, 1 or 2. */
struct dense_machine {
    int64_t lanes;
    void (*weights)(const float *taps, int64_t place_step, int wide, float *to);
    void (*inputs)(const struct under *from, int64_t squares, int64_t place_step, float *to);
    void (*products)(const float *inputs, int64_t channels, int64_t channel_step, const float *weights, int wide, float *to);
    void (*outputs)(const float *products, int64_t place_step, const float *bias, int64_t squares, int wide,
                    const struct over_rows *to);
};

const struct dense_machine *isospike_dense_machine(int64_t lanes);
