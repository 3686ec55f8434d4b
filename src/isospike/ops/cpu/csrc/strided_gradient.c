/* The gradient of the input of a dense convolution of stride 2, 3x3 padded by 1 or 1x1, channels last: also known as a transposed
 * convolution. Here x is the gradient of the output, [N][H][W][C], and `out` that of the input, [N][2 H or one less][..][O].
 *
 * Of the pixels of `out` in a square of 2x2, one has seen a single tap of the kernel, two have seen two, and one has seen four
 * (of 1x1, one a single tap, the others none). Each of these four kinds is a dense sum over as many pixels of x: (y, x), its
 * neighbours to the right and below, and the one between these. All four are gathered into [4 places][C / lanes][pixels][lanes], in an
 * order in which the places that a kind needs stand one behind the other, so that its sum is one product with weights
 * [block][tap][C][block of O].
 */
#include "dense.h"

#include <string.h>

#define FEWEST 32 /* pixels of x at a time, or one row of them */
#define MOST 128  /* as their transforms stay in cache */

/* Where a place is from (y, x). */
static const struct { int down, right; } places[4] = {{1, 0}, {0, 0}, {0, 1}, {1, 1}};

/* For the pixels (2 y + down, 2 x + right) of `out`: the first place, how many, and the tap that meets each. */
struct kind {
    int down, right, first, taps, tap[4];
};
static const struct kind kinds_of_3x3[4] = {{0, 0, 1, 1, {4}}, {0, 1, 1, 2, {5, 3}}, {1, 0, 0, 2, {1, 7}}, {1, 1, 0, 4, {2, 8, 6, 0}}};
static const struct kind kinds_of_1x1[4] = {{0, 0, 1, 1, {0}}, {0, 1, 1, 0, {0}}, {1, 0, 1, 0, {0}}, {1, 1, 1, 0, {0}}};

struct strided {
    struct dense x;
    int64_t kernel, height, width; /* of `out` */
};

SIZE_OF(strided);

static const struct kind *kinds_of(const struct strided *s) { return s->kernel == 1 ? kinds_of_1x1 : kinds_of_3x3; }

/* packed [kernel * kernel * C * O], of weights [C][O][kernel][kernel] by four strides. */
EXPORT void isospike_strided_gradient_pack(const struct strided *s, const float *weight, const int64_t *step, float *packed,
                                    int64_t threads) {
    int64_t block = block_of(&s->x), C = s->x.C, of_block = s->kernel * s->kernel * C * block;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t o = 0; o < s->x.O; o += block) {
        float *to = packed + o / block * of_block;
        for (const struct kind *kind = kinds_of(s); kind < kinds_of(s) + 4; kind++)
            for (int i = 0; i < kind->taps; i++) {
                const float *from = weight + o * step[1] + kind->tap[i] / s->kernel * step[2] + kind->tap[i] % s->kernel * step[3];
                for (int64_t c = 0; c < C; c++)
                    for (int64_t k = 0; k < block; k++) *to++ = from[c * step[0] + k * step[1]];
            }
    }
}

static int64_t whole_groups(int64_t pixels) { return (pixels + GROUP - 1) / GROUP * GROUP; }

/* How many of `rows` rows are done at a time: as few as leave little of a group empty, and some for every thread. */
static int64_t rows_at_once(int64_t rows, int64_t width, int64_t threads) {
    int64_t best = FEWEST > width ? FEWEST / width : 1;
    for (int64_t n = best + 1; n * width <= MOST && 4 * n * threads <= rows; n++)
        if (whole_groups(n * width) * best < whole_groups(best * width) * n) best = n;
    return best;
}

/* One vector. */
static inline void copy(float *to, const float *from) { memcpy(to, from, sizeof(float) * LANES); }

/* Rows `from` to `to` of all images, at the places that are needed; pixels outside are 0. */
static void gather(const struct strided *all, const float *x, int64_t from, int64_t to, int64_t pixels, float *inputs) {
    const struct dense *s = &all->x;
    for (int place = all->kernel == 1; place < (all->kernel == 1 ? 2 : 4); place++)
        for (int64_t row = from; row < to; row++) {
            int64_t inside = row % s->H + places[place].down < s->H ? s->W - places[place].right : 0;
            const float *line = inside ? x + ((row + places[place].down) * s->W + places[place].right) * s->C : x;
            for (int64_t c = 0; c < s->C; c += LANES) {
                float *at = inputs + ((place * s->C + c) * pixels + (row - from) * s->W * LANES);
                for (int64_t k = 0; k < inside; k++) copy(at + k * LANES, line + k * s->C + c);
                memset(at + inside * LANES, 0, sizeof(float) * (s->W - inside) * LANES);
            }
        }
}

/* The products of one kind [pixels][block], or zeros where there are none, for the block from o on. */
static void put(const struct strided *s, const struct kind *kind, const float *products, int64_t from, int64_t to, int64_t o,
                float *out) {
    int64_t block = block_of(&s->x), across = (s->width - kind->right + 1) / 2;
    for (int64_t row = from; row < to; row++) {
        int64_t y = 2 * (row % s->x.H) + kind->down;
        if (y >= s->height) continue;
        float *at = out + ((row / s->x.H * s->height + y) * s->width + kind->right) * s->x.O + o;
        const float *of = products + (row - from) * s->x.W * block;
        for (int64_t k = 0; k < across; k++, at += 2 * s->x.O, of += block)
            if (kind->taps)
                for (int64_t v = 0; v < block; v += LANES) copy(at + v, of + v);
            else
                memset(at, 0, sizeof(float) * block);
    }
}

/* Returns 0, or 1 where there is no memory. */
EXPORT int64_t isospike_strided_gradient(const struct strided *s, const float *x, const float *packed, float *out, int64_t threads) {
    if (s->x.W == 0) return 0;
    int64_t block = block_of(&s->x), C = s->x.C, rows = s->x.N * s->x.H, at_once = rows_at_once(rows, s->x.W, threads);
    int64_t pixels = whole_groups(at_once * s->x.W), of_inputs = 4 * C * pixels;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *inputs = room_of(of_inputs + pixels * block);
        failed = inputs == NULL;
        /* Pixels that fill up a group go nowhere, and are 0 only because numbers left over may be slow. */
        if (inputs) memset(inputs, 0, sizeof(float) * of_inputs);
#pragma omp for schedule(dynamic)
        for (int64_t from = 0; from < rows; from += at_once) {
            if (!inputs) continue;
            int64_t to = from + at_once < rows ? from + at_once : rows;
            gather(s, x, from, to, pixels, inputs);
            const float *weights = packed;
            float *products = inputs + of_inputs;
            for (int64_t o = 0; o < s->x.O; o += block)
                for (const struct kind *kind = kinds_of(s); kind < kinds_of(s) + 4; weights += kind++->taps * C * block) {
                    for (int64_t k = 0; kind->taps && k < (to - from) * s->x.W; k += GROUP)
                        dense_products(inputs + kind->first * C * pixels + k * LANES, kind->taps * C, pixels * LANES,
                                          weights, wide_of(&s->x), products + k * block);
                    put(s, kind, products, from, to, o, out);
                }
        }
        free(inputs);
    }
    return failed > 0;
}
