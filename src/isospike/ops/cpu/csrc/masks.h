/* Masks: all that the backward needs of a potential where the surrogate is a rectangle and no gradient goes through the reset.
 * They are two bits: whether the window of the surrogate was open, and whether the neuron fired.
 *
 * The masks of a block of neurons lie together, level by level, step by step, first the open bits and then the fired bits, each
 * in rows of 64 bytes for 512 neurons: neuron i of a row is bit i / 64 of byte i % 64, so that loops run over vectors.
 */
#pragma once
#include <string.h>

#include "recurrence.h"

#define COLUMNS 64 /* bytes of a row */
#define ROW (8 * COLUMNS) /* neurons */

/* Bytes of one bit of every neuron of a block. */
INLINE int64_t bits_of(int64_t block) { return (block + ROW - 1) / ROW * COLUMNS; }

/* Bytes of all masks of N neurons. */
INLINE int64_t masks_of(const struct rule *r, int64_t T, int64_t N, int64_t block) {
    return N == 0 ? 0 : (N + block - 1) / block * r->levels * T * 2 * bits_of(block);
}

#define WITH_MASKS(CALL)                                                          \
    do {                                                                          \
        struct rule fixed = *r;                                                   \
        fixed.integer = 0, fixed.surrogate = RECTANGLE;                           \
        const struct rule *q = &fixed;                                            \
        if (r->subtract) { fixed.subtract = 1; CALL; }                            \
        else { fixed.subtract = 0; CALL; }                                        \
    } while (0)

/* One bit for each of h [width], width <= COLUMNS: whether the window is open, and whether it fires. */
INLINE void mask_columns(const struct rule *r, float threshold, int width, int bit, const float *restrict h,
                       uint32_t *restrict open, uint32_t *restrict fired) {
    for (int i = 0; i < width; i++) open[i] |= (uint32_t)window_open(r, h[i], threshold) << bit;
    for (int i = 0; i < width; i++) fired[i] |= (uint32_t)fires(r, h[i], threshold) << bit;
}

INLINE void mask_row(const struct rule *r, float threshold, int n, const float *h, uint8_t *restrict open_bytes,
                     uint8_t *restrict fired_bytes) {
    uint32_t open[COLUMNS] = {0}, fired[COLUMNS] = {0};
    for (int bit = 0; bit < n / COLUMNS; bit++) mask_columns(r, threshold, COLUMNS, bit, h + bit * COLUMNS, open, fired);
    mask_columns(r, threshold, n % COLUMNS, n / COLUMNS, h + n / COLUMNS * COLUMNS, open, fired);
    for (int i = 0; i < COLUMNS; i++) open_bytes[i] = (uint8_t)open[i];
    for (int i = 0; i < COLUMNS; i++) fired_bytes[i] = (uint8_t)fired[i];
}

/* forward_level that also writes the masks of its level. */
INLINE void forward_masked(const struct rule *r, float threshold, int T, int n, const float *x, int64_t x_step, float *v, float *s,
                          int64_t s_step, int add, int64_t bits, uint8_t *masks) {
    const float decay = r->decay, gain = r->gain;
    ALIGNED float h[ROW];
    for (int t = 0; t < T; t++, masks += 2 * bits)
        for (int from = 0; from < n; from += ROW) {
            const float *restrict x_t = x + t * x_step + from;
            float *restrict s_t = s + t * s_step + from, *restrict v_t = v + from;
            int m = n - from < ROW ? n - from : ROW;
            for (int i = 0; i < m; i++) {
                h[i] = decay * v_t[i] + gain * x_t[i];
                float out = spike(r, h[i], threshold);
                v_t[i] = after(r, h[i], out, threshold);
                s_t[i] = add ? s_t[i] + out : out;
            }
            mask_row(r, threshold, m, h, masks + from / 8, masks + bits + from / 8);
        }
}

/* The same of a block of whole chunks, from v (NULL for rest) to `end`; s and `end` are written past the caches. */
INLINE void forward_masked_past(const struct rule *r, float threshold, int T, int n, const float *x, int64_t x_step, const float *v,
                               float *end, float *s, int64_t s_step, int64_t bits, uint8_t *masks) {
    ALIGNED float now[ROW], out[ROW];
    for (int from = 0; from < n; from += ROW) {
        int m = n - from < ROW ? n - from : ROW;
        copy_or_zero(m, v ? v + from : NULL, now);
        for (int t = 0; t < T; t++) {
            fetch(x + t * x_step + from, AHEAD, m);
            forward_masked(r, threshold, 1, m, x + t * x_step + from, 0, now, out, 0, 0, bits, masks + 2 * bits * t + from / 8);
            for (int i = 0; i < m; i += CHUNK) put_past(s + t * s_step + from + i, out + i);
        }
        for (int i = 0; i < m; i += CHUNK) put_past(end + from + i, now + i);
    }
}

/* dx may be ds. */
INLINE void return_columns(const struct rule *r, int width, int bit, const float *ds, float *restrict dv, float *dx, int add,
                           const uint32_t *restrict open, const uint32_t *restrict fired) {
    const float decay = r->decay, gain = r->gain, height = 1.0f / r->parameter;
#pragma omp simd
    for (int i = 0; i < width; i++) {
        float window = height * (float)(int32_t)((open[i] >> bit) & 1);
        float kept = r->subtract ? 1.0f : (float)(int32_t)(1 - ((fired[i] >> bit) & 1));
        float dh = ds[i] * window + dv[i] * kept;
        dx[i] = add ? dx[i] + gain * dh : gain * dh;
        dv[i] = decay * dh;
    }
}

/* backward_level from the masks of its level; dx may be ds where nothing is added. */
INLINE void backward_masked(const struct rule *r, int T, int n, const float *ds, int64_t s_step, float *dv, float *dx, int add,
                           int64_t bits, const uint8_t *masks) {
    for (int t = T - 1; t >= 0; t--)
        for (int from = 0; from < n; from += ROW) {
            int m = n - from < ROW ? n - from : ROW, full = m / COLUMNS;
            const float *ds_t = ds + t * s_step + from;
            float *dx_t = dx + t * s_step + from, *dv_t = dv + from;
            const uint8_t *restrict at = masks + 2 * bits * t + from / 8;
            uint32_t open[COLUMNS], fired[COLUMNS];
            for (int i = 0; i < COLUMNS; i++) open[i] = at[i];
            for (int i = 0; i < COLUMNS; i++) fired[i] = at[bits + i];
            for (int bit = 0; bit < full; bit++, ds_t += COLUMNS, dx_t += COLUMNS, dv_t += COLUMNS)
                return_columns(r, COLUMNS, bit, ds_t, dv_t, dx_t, add, open, fired);
            return_columns(r, m % COLUMNS, full, ds_t, dv_t, dx_t, add, open, fired);
        }
}

/* The same of a block of whole chunks, dx past the caches. */
INLINE void backward_masked_past(const struct rule *r, int T, int n, const float *ds, int64_t s_step, float *dv, float *dx,
                                int64_t bits, const uint8_t *masks) {
    ALIGNED float out[ROW];
    for (int from = 0; from < n; from += ROW) {
        int m = n - from < ROW ? n - from : ROW;
        for (int t = T - 1; t >= 0; t--) {
            fetch(ds + t * s_step + from, AHEAD, m);
            backward_masked(r, 1, m, ds + t * s_step + from, 0, dv + from, out, 0, bits, masks + 2 * bits * t + from / 8);
            for (int i = 0; i < m; i += CHUNK) put_past(dx + t * s_step + from + i, out + i);
        }
    }
}
