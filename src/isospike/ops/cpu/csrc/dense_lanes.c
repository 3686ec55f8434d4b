/* The inner loops of dense.c, in vectors. */
#include "dense.h"
#include "vectors.h"

#define EACH(i, n) _Pragma("GCC unroll 6") for (int i = 0; i < n; i++)

/* A block of sums that is not whole. */
static void put_part(const float *sums, const struct sums *to, float *out) {
    for (int o = 0; o < to->filters; o++) {
        float value = sums[o] + to->bias[o];
        out[o] = to->onto ? value + out[o] : value;
    }
}

INLINE void multiply(const float *const *from, int pixels, const struct runs *runs, const float *weights, int wide, const struct sums *to) {
    in_register sum[PIXELS][2];
    const float *x[PIXELS];
    EACH(p, pixels) EACH(v, wide) sum[p][v] = (in_register){0};
    for (int64_t run = 0; run < runs->count; run++) {
        EACH(p, pixels) x[p] = from[p] + runs->at[run];
        for (int64_t i = 0; i < runs->numbers; i++, weights += wide * LANES) {
            in_register w[2];
            EACH(v, wide) w[v] = AT(weights + v * LANES);
            EACH(p, pixels) {
                const float number = x[p][i];
                EACH(v, wide) sum[p][v] = MULTIPLY_ADD(w[v], number, sum[p][v]);
            }
        }
    }
    EACH(p, pixels) {
        float *out = to->out + p * to->O;
        if (to->filters < wide * LANES) {
            ALIGNED float sums[2 * LANES];
            EACH(v, wide) AT(sums + v * LANES) = sum[p][v];
            put_part(sums, to, out);
            continue;
        }
        EACH(v, wide) {
            in_register value = sum[p][v] + AT(to->bias + v * LANES);
            if (to->onto) value += AT(out + v * LANES);
            AT(out + v * LANES) = value;
        }
    }
}

void dense_products(const float *const *from, int pixels, const struct runs *runs, const float *weights, int wide, const struct sums *to) {
#define PRODUCTS(pixels)                                               \
    do {                                                               \
        if (wide == 1) multiply(from, pixels, runs, weights, 1, to);   \
        else multiply(from, pixels, runs, weights, 2, to);             \
    } while (0)
    if (pixels == 6) PRODUCTS(6);
    else if (pixels == 4) PRODUCTS(4);
    else if (pixels == 2) PRODUCTS(2);
    else PRODUCTS(1);
}
