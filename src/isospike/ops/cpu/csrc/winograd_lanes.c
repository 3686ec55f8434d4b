/* The inner loops of winograd.c, in vectors. */
#include "winograd.h"
#include "vectors.h"

#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < n; i++)
#define SUMS (REGISTERS / 2) /* vectors of them at a time */

/* G w G' of one block of filters, from its taps [3][3][block], to places `place_step` apart. */
void winograd_weights(const float *taps, int64_t place_step, int wide, float *to) {
    const int64_t block = wide * LANES;
    for (int64_t k = 0; k < block; k += LANES) {
        vector rows[4][3];
        EACH(x, 3) {
            vector a = AT(taps + x * block + k), b = AT(taps + (3 + x) * block + k), c = AT(taps + (6 + x) * block + k);
            rows[0][x] = a, rows[1][x] = (a + b + c) * 0.5f, rows[2][x] = (a - b + c) * 0.5f, rows[3][x] = c;
        }
        EACH(y, 4) {
            vector a = rows[y][0], b = rows[y][1], c = rows[y][2];
            float *at = to + 4 * y * place_step + k;
            AT(at) = a, AT(at + place_step) = (a + b + c) * 0.5f;
            AT(at + 2 * place_step) = (a - b + c) * 0.5f, AT(at + 3 * place_step) = c;
        }
    }
}

/* B' d for one column of inputs; zeros outside. */
INLINE void column(const struct under *from, int64_t x, vector *to) {
    vector d[4] = {{0}};
    if (x >= 0 && x < from->width) EACH(y, 4) d[y] = AT(from->row[y] + x * from->step[y]);
    to[0] = d[0] - d[2], to[1] = d[1] + d[2], to[2] = d[2] - d[1], to[3] = d[1] - d[3];
}

/* B' d B of a row of squares; neighbours share two columns. */
void winograd_inputs(const struct under *from, int64_t squares, int64_t place_step, float *to) {
    vector a[4], b[4], c[4], d[4];
    column(from, -1, a), column(from, 0, b);
    for (int64_t k = 0; k < squares; k++, to += LANES) {
        column(from, 2 * k + 1, c), column(from, 2 * k + 2, d);
        EACH(y, 4) {
            float *at = to + 4 * y * place_step;
            AT(at) = a[y] - c[y], AT(at + place_step) = b[y] + c[y];
            AT(at + 2 * place_step) = c[y] - b[y], AT(at + 3 * place_step) = b[y] - d[y];
            a[y] = c[y], b[y] = d[y];
        }
    }
}

/* The sums over all channels, of so many squares. */
INLINE void multiply(const float *inputs, int64_t channels, int64_t channel_step, const float *weights, int squares, int wide,
                          float *to) {
    in_register sum[SUMS][2];
    EACH(k, squares) EACH(v, wide) sum[k][v] = (in_register){0};
    for (int64_t c = 0; c < channels; c += LANES, inputs += channel_step)
        for (const float *of = inputs; of < inputs + LANES; of++, weights += wide * LANES) {
            in_register w[2];
            EACH(v, wide) w[v] = AT(weights + v * LANES);
            EACH(k, squares) {
                const float x = of[k * LANES];
                EACH(v, wide) sum[k][v] = MULTIPLY_ADD(w[v], x, sum[k][v]);
            }
        }
    EACH(k, squares) EACH(v, wide) AT(to + (k * wide + v) * LANES) = sum[k][v];
}

/* Of GROUP of them: as many at a time as there are registers for. */
void winograd_products(const float *inputs, int64_t channels, int64_t channel_step, const float *weights, int wide, float *to) {
    for (int k = 0; k < GROUP; k += SUMS / wide) {
        const float *from = inputs + k * LANES;
        float *products = to + k * wide * LANES;
        if (wide == 1)
            multiply(from, channels, channel_step, weights, SUMS, 1, products);
        else
            multiply(from, channels, channel_step, weights, SUMS / 2, 2, products);
    }
}

/* A' m A of a row of squares, plus the bias of the block. */
void winograd_outputs(const float *products, int64_t place_step, const float *bias, int64_t squares, int wide,
                         const struct over_rows *to) {
    for (int64_t k = 0; k < squares; k++)
        for (int v = 0; v < wide; v++) {
            const float *from = products + (k * wide + v) * LANES;
            const int64_t at = 2 * k * to->O + v * LANES;
            vector up[4], down[4], offset = AT(bias + v * LANES);
            EACH(x, 4) {
                vector m[4];
                EACH(y, 4) m[y] = AT(from + (4 * y + x) * place_step);
                up[x] = m[0] + m[1] + m[2], down[x] = m[1] - m[2] - m[3];
            }
            AT(to->first + at) = up[0] + up[1] + up[2] + offset;
            if (2 * k + 1 < to->width) AT(to->first + at + to->O) = up[1] - up[2] - up[3] + offset;
            if (!to->second) continue;
            AT(to->second + at) = down[0] + down[1] + down[2] + offset;
            if (2 * k + 1 < to->width) AT(to->second + at + to->O) = down[1] - down[2] - down[3] + offset;
        }
}
