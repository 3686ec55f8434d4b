/* Winograd's convolution: see winograd.h. */
#include "winograd.h"

#include <string.h>

#define SQUARES 32 /* at a time, or one row of them: their transforms stay in cache */

SIZE_OF(maps);

/* From one place to the next, of inputs and of products: one line of the cache more than there is, so that the places of a square
 * do not all fall into the same few sets of the cache. */
static int64_t input_step(const struct maps *s, int64_t squares) { return s->C * squares + 16; }
static int64_t product_step(const struct maps *s, int64_t squares) { return block_of(s) * squares + 16; }

/* Floats of transformed weights: those of every block, then a bias per filter. */
EXPORT int64_t isospike_winograd_room(const struct maps *s) { return places_of(s) * s->C * s->O + s->O; }

/* packed [isospike_winograd_room()], of weights [O][C][3][3] by four strides, turned around where `turned` is set, and of `bias` [O]
 * or NULL. */
EXPORT void isospike_winograd_pack(const struct maps *s, const float *weight, const int64_t *step, int64_t turned, const float *bias,
                            float *packed, int64_t threads) {
    int64_t block = block_of(s), places = places_of(s);
#pragma omp parallel for schedule(static) collapse(2) num_threads(threads)
    for (int64_t o = 0; o < s->O; o += block)
        for (int64_t c = 0; c < s->C; c++) {
            ALIGNED float taps[9 * 2 * 16];
            const float *from = weight + o * step[0] + c * step[1];
            for (int tap = 0; tap < 9; tap++) {
                int at = turned ? 8 - tap : tap;
                const float *of = from + at / 3 * step[2] + at % 3 * step[3];
                for (int64_t k = 0; k < block; k++) taps[tap * block + k] = of[k * step[0]];
            }
            winograd_weights(taps, s->C * block, wide_of(s), s->side, packed + places * o * s->C + c * block);
        }
    float *biases = packed + places * s->C * s->O;
    for (int64_t o = 0; o < s->O; o++) biases[o] = bias ? bias[o] : 0;
}

/* Rows of squares `from` to `to` of all images, their inputs transformed into `inputs`. */
static void take_rows(const struct maps *s, const float *x, int64_t from, int64_t to, int64_t squares, const float *zeros,
                      float *inputs) {
    int64_t down = over(s->H, s->side), across = over(s->W, s->side);
    for (int64_t row = from; row < to; row++)
        for (int64_t c = 0; c < s->C; c += LANES) {
            struct under under = {.width = s->W};
            for (int i = 0; i < reach_of(s); i++) {
                int64_t y = s->side * (row % down) - 1 + i;
                int inside = y >= 0 && y < s->H;
                under.row[i] = inside ? x + (row / down * s->H + y) * s->W * s->C + c : zeros;
                under.step[i] = inside ? s->C : 0;
            }
            float *to_row = inputs + (c / LANES * squares + (row - from) * across) * LANES;
            winograd_inputs(&under, across, input_step(s, squares), s->side, to_row);
        }
}

/* The block of filters from o on. */
static void put_rows(const struct maps *s, const float *products, int64_t from, int64_t to, int64_t squares, const float *bias,
                     int64_t o, float *out) {
    int64_t down = over(s->H, s->side), across = over(s->W, s->side), block = block_of(s);
    for (int64_t row = from; row < to; row++) {
        struct over_rows rows = {.width = s->W, .O = s->O};
        for (int i = 0; i < s->side; i++) {
            int64_t y = s->side * (row % down) + i;
            rows.row[i] = y < s->H ? out + (row / down * s->H + y) * s->W * s->O + o : NULL;
        }
        const float *of = products + (row - from) * across * block;
        winograd_outputs(of, product_step(s, squares), bias + o, across, wide_of(s), s->side, &rows);
    }
}

/* Rows of squares at a time, of `rows`: every thread has some, though fewer squares than a group would be filled up to one. */
static int64_t rows_at_once(int64_t rows, int64_t across, int64_t threads) {
    int64_t share = larger(rows * across / (2 * threads), GROUP);
    return larger(smaller(SQUARES, share) / across, 1);
}

/* out [N][H][W][O] of x [N][H][W][C]. Returns 0, or 1 where there is no memory. */
EXPORT int64_t isospike_winograd(const struct maps *s, const float *x, const float *packed, float *out, int64_t threads) {
    if (s->W == 0) return 0;
    int64_t across = over(s->W, s->side), rows = s->N * over(s->H, s->side), block = block_of(s), places = places_of(s);
    int64_t at_once = rows_at_once(rows, across, threads), squares = over(at_once * across, GROUP) * GROUP;
    int64_t of_inputs = places * input_step(s, squares), of_products = places * product_step(s, squares);
    const float *bias = packed + places * s->C * s->O;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *inputs = room_of(of_inputs + of_products + LANES);
        failed = inputs == NULL;
        /* Squares that fill up a group go nowhere, and are 0 only because numbers left over may be slow. */
        if (inputs) memset(inputs, 0, sizeof(float) * (of_inputs + of_products + LANES));
#pragma omp for schedule(dynamic)
        for (int64_t from = 0; from < rows; from += at_once) {
            if (!inputs) continue;
            int64_t to = from + at_once < rows ? from + at_once : rows;
            float *products = inputs + of_inputs, *zeros = products + of_products;
            take_rows(s, x, from, to, squares, zeros, inputs);
            for (int64_t o = 0; o < s->O; o += block) {
                for (int64_t place = 0; place < places; place++)
                    for (int64_t k = 0; k < (to - from) * across; k += GROUP)
                        winograd_products(inputs + place * input_step(s, squares) + k * LANES, s->C, squares * LANES,
                                       packed + (places * o + place * block) * s->C, wide_of(s),
                                       products + place * product_step(s, squares) + k * block);
                put_rows(s, products, from, to, squares, bias, o, out);
            }
        }
        free(inputs);
    }
    return failed > 0;
}
