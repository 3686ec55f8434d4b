/* All that stands between two convolutions at inference, in one pass over memory:
 *
 *     sum = x + y;   s = fire(sum);   out = join(s, z)
 *
 * x, y and sum each through an affine of their channel; what is absent is left out. Memory is [T][N] with N = rows of C
 * channels, channels last. Blocks of whole rows stay in the cache through all T steps, potentials with them. Products
 * and sums are kept apart, so that the bits are those of the same operations in eager PyTorch.
 */
#include "bits.h"
#include "recurrence.h"

enum fires { NOTHING, RULE, RECTIFIER };
enum join { ALONE, ADD, AND, IAND };

/* `scale` and `shift` [steps][block], their channels repeated to fill a block; `step` is 0 where all steps share them. */
struct affine {
    const float *scale, *shift;
    int64_t step;
};

/* How a map is kept: bits of an element. Of spikes as bits, C is a multiple of 8. */
enum width { BIT = 1, BYTE = 8, FLOAT = 32 };

/* `step` elements from one time step to the next, 0 where it is the same at all. */
struct term {
    const void *data;
    int64_t step, width;
    struct affine affine;
};

struct pass {
    int64_t T, N, block, threads;
    struct term x, y, z;
    struct affine affine; /* of the sum */
    float *sum;           /* room for the sum before its affine, or NULL */
    int64_t sum_step;
    const float *before;  /* potentials [levels][N] before the first step, NULL for rest */
    float *after;         /* room for those behind the last, or NULL */
    void *out;
    int64_t out_width, fires, join;
    struct rule rule;
};

SIZE_OF(affine);
SIZE_OF(term);
SIZE_OF(pass);

/* Step t of a term as n floats: where they lie, or a copy in `room`. */
INLINE const float *load(const struct term *term, int t, int64_t start, int n, float *restrict room) {
    const int64_t at = t * term->step + start;
    if (term->width == FLOAT) return (const float *)term->data + at;
    const uint8_t *restrict bytes = (const uint8_t *)term->data + (term->width == BIT ? at / 8 : at);
    if (term->width == BIT)
        unpack_values(bytes, n, room);
    else
        for (int i = 0; i < n; i++) room[i] = bytes[i];
    return room;
}

INLINE const float *through(const struct affine *affine, int t, int n, const float *x, float *room) {
    if (!affine->scale) return x;
    const float *restrict a = affine->scale + t * affine->step, *restrict b = affine->shift + t * affine->step;
    for (int i = 0; i < n; i++) room[i] = a[i] * x[i] + b[i];
    return room;
}

/* As bits: what is not 0. As bytes: 0 for what is not a number, and the nearest byte for what is none. */
INLINE void store(const struct pass *p, int t, int64_t start, int n, const float *restrict from) {
    const int64_t at = t * p->N + start;
    uint8_t *restrict to = (uint8_t *)p->out + (p->out_width == BIT ? at / 8 : at);
    if (p->out_width == BIT) {
        pack_values(from, n, to);
        return;
    }
    for (int i = 0; i < n; i++) {
        float byte = from[i] > 0 ? from[i] : 0;
        to[i] = (uint8_t)(int32_t)(byte < 255 ? byte : 255);
    }
}

INLINE void join(int64_t kind, int n, float *restrict s, const float *restrict z) {
    if (kind == ADD)
        for (int i = 0; i < n; i++) s[i] = s[i] + z[i];
    else if (kind == AND)
        for (int i = 0; i < n; i++) s[i] = s[i] * z[i];
    else
        for (int i = 0; i < n; i++) s[i] = (1 - s[i]) * z[i];
}

/* Potentials of a level lie `room` from those of the level before. */
INLINE void fire_step(const struct pass *p, int n, const float *x, float *v, int64_t room, float *s) {
    const struct rule *r = &p->rule;
    if (p->fires == RECTIFIER)
        for (int i = 0; i < n; i++) s[i] = x[i] < 0 ? 0 : x[i];
    else
        for (int k = 0; k < r->levels; k++)
            WITH_FLAGS(forward_level(q, r->thresholds[k], 1, n, x, 0, v + k * room, s, 0, k > 0));
}

/* A block of n neurons from `start` on; `rooms` has three of `size` and one for the potentials of each level. */
static void pass_block(const struct pass *p, int64_t start, int n, float *rooms, int64_t size) {
    float *first = rooms, *second = rooms + size, *bytes = rooms + 2 * size, *v = rooms + 3 * size;
    for (int k = 0; p->fires == RULE && k < p->rule.levels; k++)
        copy_or_zero(n, p->before ? p->before + k * p->N + start : NULL, v + k * size);
    for (int t = 0; t < p->T; t++) {
        float *sum = p->sum ? p->sum + t * p->sum_step + start : first;
        float *s = p->out_width == FLOAT ? (float *)p->out + t * p->N + start : bytes;
        const float *c = through(&p->x.affine, t, n, load(&p->x, t, start, n, first), first);
        if (p->y.data) {
            const float *d = through(&p->y.affine, t, n, load(&p->y, t, start, n, second), second);
            for (int i = 0; i < n; i++) sum[i] = c[i] + d[i];
            c = sum;
        } else if (p->sum)
            copy_or_zero(n, c, sum);
        c = through(&p->affine, t, n, c, first);
        if (p->fires)
            fire_step(p, n, c, v, size, s);
        else
            copy_or_zero(n, c, s);
        if (p->join) join(p->join, n, s, load(&p->z, t, start, n, second));
        if (s == bytes) store(p, t, start, n, s);
    }
    for (int k = 0; p->after && k < p->rule.levels; k++) copy_or_zero(n, v + k * size, p->after + k * p->N + start);
}

/* Returns 0, or 1 where there is no memory. */
EXPORT int64_t isospike_pass(const struct pass *p) {
    const int64_t size = (p->block + LINE - 1) / LINE * LINE; /* rooms start with a line of the cache */
    int failed = 0;
#pragma omp parallel num_threads(p->threads) reduction(+ : failed)
    {
        float *rooms = room_of(size * (3 + p->rule.levels));
        failed = rooms == NULL;
#pragma omp for schedule(static)
        for (int64_t start = 0; start < p->N; start += p->block)
            if (rooms) pass_block(p, start, (int)(p->N - start < p->block ? p->N - start : p->block), rooms, size);
        free(rooms);
    }
    return failed > 0;
}
