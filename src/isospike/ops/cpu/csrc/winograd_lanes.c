/* The inner loops of winograd.c, in vectors. */
#include "winograd.h"
#include "vectors.h"

#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < n; i++)
#define SUMS (REGISTERS / 2) /* vectors of them at a time */

/* One line of each transform: of the three taps, of the inputs, of the products. */
INLINE void taps_line(int side, vector a, vector b, vector c, vector *to) {
    if (side == 2)
        to[0] = a, to[1] = (a + b + c) * 0.5f, to[2] = (a - b + c) * 0.5f, to[3] = c;
    else {
        to[0] = a, to[1] = (a + b + c) / 3, to[2] = (b - a - c) / 3;
        to[3] = (4 * a + 2 * b + c) * -4 / 15, to[4] = (a - 2 * b + 4 * c) / 15, to[5] = c;
    }
}

INLINE void inputs_line(int side, const vector *d, vector *to) {
    if (side == 2)
        to[0] = d[0] - d[2], to[1] = d[1] + d[2], to[2] = d[2] - d[1], to[3] = d[1] - d[3];
    else {
        const vector even = d[4] - d[2], odd = d[3] - d[1];
        to[0] = MULTIPLY_ADD(odd, 1.5f, d[0] - d[2] + even);
        to[1] = MULTIPLY_ADD(d[3], 2.5f, MULTIPLY_ADD(d[2], 0.5f, d[4] - d[1]));
        to[2] = MULTIPLY_ADD(d[2], -2.5f, MULTIPLY_ADD(d[3], 0.5f, d[4] + d[1]));
        to[3] = MULTIPLY_ADD(odd, 2.0f, even), to[4] = MULTIPLY_ADD(odd, -0.5f, even);
        to[5] = MULTIPLY_ADD(even, 1.5f, d[5] - d[3] - odd);
    }
}

INLINE void outputs_line(int side, const vector *m, vector *to) {
    const vector sum = m[1] + m[2], difference = m[1] - m[2];
    if (side == 2)
        to[0] = m[0] + sum, to[1] = difference - m[3];
    else {
        to[0] = m[0] + sum + m[3] + m[4];
        to[1] = MULTIPLY_ADD(m[4], -2.0f, MULTIPLY_ADD(m[3], 0.5f, difference));
        to[2] = MULTIPLY_ADD(m[4], 4.0f, MULTIPLY_ADD(m[3], 0.25f, sum));
        to[3] = MULTIPLY_ADD(m[4], -8.0f, MULTIPLY_ADD(m[3], 0.125f, difference + m[5]));
    }
}

/* G w G' of one block of filters, from its taps [3][3][block], to places `place_step` apart. */
INLINE void weights(const float *taps, int64_t place_step, int wide, int side, float *to) {
    const int reach = side + 2;
    const int64_t block = wide * LANES;
    for (int64_t k = 0; k < block; k += LANES) {
        vector columns[3][LARGEST_REACH], row[LARGEST_REACH];
        EACH(x, 3) {
            const float *of = taps + x * block + k;
            taps_line(side, AT(of), AT(of + 3 * block), AT(of + 6 * block), columns[x]);
        }
        EACH(y, reach) {
            taps_line(side, columns[0][y], columns[1][y], columns[2][y], row);
            EACH(x, reach) AT(to + (reach * y + x) * place_step + k) = row[x];
        }
    }
}

/* B' d for one column of inputs; zeros outside. */
INLINE void column(const struct under *from, int64_t x, int side, vector *to) {
    vector d[LARGEST_REACH] = {{0}};
    if (x >= 0 && x < from->width) EACH(y, side + 2) d[y] = AT(from->row[y] + x * from->step[y]);
    inputs_line(side, d, to);
}

/* B' d B of a row of squares; neighbours share two columns. */
INLINE void inputs(const struct under *from, int64_t squares, int64_t place_step, int side, float *to) {
    const int reach = side + 2;
    vector columns[LARGEST_REACH][LARGEST_REACH];
    column(from, -1, side, columns[0]), column(from, 0, side, columns[1]);
    for (int64_t k = 0; k < squares; k++, to += LANES) {
        EACH(x, side) column(from, side * k + 1 + x, side, columns[2 + x]);
        float *at = to;
        EACH(y, reach) {
            vector line[LARGEST_REACH], row[LARGEST_REACH];
            EACH(x, reach) line[x] = columns[x][y];
            inputs_line(side, line, row);
            EACH(x, reach) AT(at) = row[x], at += place_step;
            columns[0][y] = line[side], columns[1][y] = line[side + 1];
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
INLINE void outputs(const float *products, int64_t place_step, const float *bias, int64_t squares, int wide, int side,
                    const struct over_rows *to) {
    const int reach = side + 2;
    for (int64_t k = 0; k < squares; k++)
        for (int v = 0; v < wide; v++) {
            const float *from = products + (k * wide + v) * LANES;
            const int64_t at = side * k * to->O + v * LANES, columns = to->width - side * k;
            const vector offset = AT(bias + v * LANES);
            vector lines[LARGEST_REACH][LARGEST_SIDE];
            EACH(x, reach) {
                vector m[LARGEST_REACH];
                EACH(y, reach) m[y] = AT(from + (reach * y + x) * place_step);
                outputs_line(side, m, lines[x]);
            }
            EACH(y, side) {
                vector m[LARGEST_REACH], row[LARGEST_SIDE];
                if (!to->row[y]) break;
                EACH(x, reach) m[x] = lines[x][y];
                outputs_line(side, m, row);
                EACH(x, side) if (x < columns) AT(to->row[y] + at + x * to->O) = row[x] + offset;
            }
        }
}

#define WITH_SIDE(side, CALL)                    \
    do {                                         \
        if (side == 2) { enum { S = 2 }; CALL; } \
        else { enum { S = 4 }; CALL; }           \
    } while (0)

void winograd_weights(const float *taps, int64_t place_step, int wide, int64_t side, float *to) {
    WITH_SIDE(side, weights(taps, place_step, wide, S, to));
}

void winograd_inputs(const struct under *from, int64_t squares, int64_t place_step, int64_t side, float *to) {
    WITH_SIDE(side, inputs(from, squares, place_step, S, to));
}

void winograd_outputs(const float *products, int64_t place_step, const float *bias, int64_t squares, int wide, int64_t side,
                      const struct over_rows *to) {
    WITH_SIDE(side, outputs(products, place_step, bias, squares, wide, S, to));
}
