/* Dense convolutions of any shape in one group, channels last, whose every sum has one order: taps of the kernel row by row, of each
 * all channels, then the bias, then what is there already. So bits depend neither on threads nor on the batch: those of a stream, one
 * step at a time, are those of all steps at once.
 *
 * Some output rows, or some images, are a tile. What they read is copied with zeros around it (and made floats of, where it is bits or
 * bytes), so that inner pixels and those at the border take the same way, a few of them at a time.
 */
#pragma once
#include "bits.h"
#include "recurrence.h"

#define PIXELS 6 /* multiplied at a time, or a part of it */

/* Pairs are of rows and columns; `width` is the bits of an element of the input, as in infer.c. */
struct dense {
    int64_t N, C, H, W, O, kernel[2], stride[2], padding[2], dilation[2], width;
};

/* Filters are done a block at a time. */
static inline int dense_wide(const struct dense *s) { return s->O > LANES ? 2 : 1; }
static inline int64_t dense_block(const struct dense *s) { return dense_wide(s) * LANES; }

/* What a pixel reads: `count` runs of numbers that lie side by side, each `at` behind the first. */
struct runs {
    const int64_t *at;
    int64_t count, numbers;
};

/* Where sums go: pixels O apart, onto what is there where `onto` is set; of a block only `filters`. */
struct sums {
    const float *bias;
    float *out;
    int64_t O;
    int filters, onto;
};

/* The inner loop, in vectors: dense_lanes.c. The block of filters of `pixels` pixels, 6, 4, 2 or 1, that begin at `from`. */
void dense_products(const float *const *from, int pixels, const struct runs *runs, const float *weights, int wide, const struct sums *to);
