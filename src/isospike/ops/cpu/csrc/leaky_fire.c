/* The recurrence of isospike.ops.leaky_fire on float32, forward and backward.
 *
 * Memory is [T][N]: N neurons in any one order, `x_step` elements from one step of the current to the next (0 where it is
 * the same at every step). Work is cut into blocks of neurons that stay in the cache; the backward keeps of the forward
 * masks where they make do, else its input, and computes the potentials of a block anew. Multiplication and addition are
 * never fused (-ffp-contract=off), so that potentials have the bits of the eager reference.
 */
#include "masks.h"

SIZE_OF(rule);

#define LARGE (1 << 22) /* elements: more than the caches of most machines hold */

/* Whether what n neurons write is better not kept in the caches. */
INLINE int is_large(const struct rule *r, int64_t T, int n, int64_t N) {
    return T * N >= LARGE && r->levels == 1 && n % CHUNK == 0;
}

static void forward_block(const struct rule *r, int T, int n, int64_t N, const float *x, int64_t x_step, const float *v, float *end,
                   float *s, uint8_t *masks) {
    int64_t bits = bits_of(NEURONS), level = 2 * bits * T;
    if (is_large(r, T, n, N)) {
        if (masks)
            WITH_MASKS(forward_masked_past(q, r->thresholds[0], T, n, x, x_step, v, end, s, N, bits, masks));
        else
            WITH_FLAGS(forward_past(q, r->thresholds[0], T, n, x, x_step, v, end, s, N));
        return;
    }
    for (int k = 0; k < r->levels; k++) {
        copy_or_zero(n, v ? v + k * N : NULL, end + k * N);
        if (masks)
            WITH_MASKS(forward_masked(q, r->thresholds[k], T, n, x, x_step, end + k * N, s, N, k > 0, bits, masks + k * level));
        else
            WITH_FLAGS(forward_level(q, r->thresholds[k], T, n, x, x_step, end + k * N, s, N, k > 0));
    }
}

static void backward_block(const struct rule *r, int T, int n, int64_t N, const float *x, int64_t x_step, const float *v,
                    const float *ds, const float *d_end, float *dv, float *dx, float *room, double *coefficients) {
    float *d = room, *h = d + NEURONS, *u = h + (int64_t)T * NEURONS;
    for (int k = 0; k < r->levels; k++) {
        copy_or_zero(n, v ? v + k * N : NULL, u);
        copy_or_zero(n, d_end ? d_end + k * N : NULL, d);
        if (is_large(r, T, n, N))
            WITH_FLAGS(backward_past(q, r->thresholds[0], T, n, x, x_step, h + T * CHUNK, u, ds, N, d, dx, h, coefficients));
        else
            WITH_FLAGS(backward_level(q, r->thresholds[k], T, n, x, x_step, h, u, ds, N, d, dx, N, k > 0, NEURONS, coefficients));
        if (dv) copy_or_zero(n, d, dv + k * N);
    }
}

static void pass_masks(const struct rule *r, int T, int n, int64_t N, const float *ds, const float *d_end, float *dv, float *dx,
                const uint8_t *masks) {
    ALIGNED float d[NEURONS];
    int64_t bits = bits_of(NEURONS), level = 2 * bits * T;
    for (int k = 0; k < r->levels; k++) {
        copy_or_zero(n, d_end ? d_end + k * N : NULL, d);
        if (is_large(r, T, n, N))
            WITH_MASKS(backward_masked_past(q, T, n, ds, N, d, dx, bits, masks));
        else
            WITH_MASKS(backward_masked(q, T, n, ds, N, d, dx, k > 0, bits, masks + k * level));
        if (dv) copy_or_zero(n, d, dv + k * N);
    }
}

/* Bytes of the masks of all neurons. */
EXPORT int64_t isospike_masks(const struct rule *r, int64_t T, int64_t N) { return masks_of(r, T, N, NEURONS); }

/* v [levels][N]: potentials before the first step, NULL for rest; end [levels][N]: room for those behind the last; masks:
 * room for them, or NULL. */
EXPORT void isospike_forward(const struct rule *r, int64_t T, int64_t N, const float *x, int64_t x_step, const float *v, float *end,
                      float *s, uint8_t *masks, int64_t threads) {
    int64_t room = 2 * bits_of(NEURONS) * T * r->levels;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t start = 0; start < N; start += NEURONS) {
            int n = (int)(N - start < NEURONS ? N - start : NEURONS);
            forward_block(r, (int)T, n, N, x + start, x_step, v ? v + start : NULL, end + start, s + start,
                          masks ? masks + start / NEURONS * room : NULL);
        }
        settled();
    }
}

/* ds [T][N] and d_end [levels][N] (NULL for 0): gradients of the spikes and of the potentials behind the last step. dv
 * [levels][N]: room for the gradient of the potentials before the first step, or NULL; dx [T][N]: room for that of the
 * current; coefficients [blocks][2], 0 on entry: each block's share of the gradients of decay and gain, or NULL. Returns 0,
 * or 1 where there is no memory. */
EXPORT int64_t isospike_backward(const struct rule *r, int64_t T, int64_t N, const float *x, int64_t x_step, const float *v,
                      const float *ds, const float *d_end, float *dv, float *dx, double *coefficients, int64_t threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *room = room_of(NEURONS * (2 * T + 2));
        failed = room == NULL;
#pragma omp for schedule(static)
        for (int64_t start = 0; start < N; start += NEURONS) {
            int n = (int)(N - start < NEURONS ? N - start : NEURONS);
            if (room)
                backward_block(r, (int)T, n, N, x + start, x_step, v ? v + start : NULL, ds + start,
                               d_end ? d_end + start : NULL, dv ? dv + start : NULL, dx + start, room,
                               coefficients ? coefficients + 2 * (start / NEURONS) : NULL);
        }
        settled();
        free(room);
    }
    return failed > 0;
}

/* The same from masks; there is no gradient of decay and gain then. */
EXPORT void isospike_backward_masked(const struct rule *r, int64_t T, int64_t N, const uint8_t *masks, const float *ds,
                             const float *d_end, float *dv, float *dx, int64_t threads) {
    int64_t room = 2 * bits_of(NEURONS) * T * r->levels;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t start = 0; start < N; start += NEURONS) {
            int n = (int)(N - start < NEURONS ? N - start : NEURONS);
            pass_masks(r, (int)T, n, N, ds + start, d_end ? d_end + start : NULL, dv ? dv + start : NULL, dx + start,
                       masks + start / NEURONS * room);
        }
        settled();
    }
}

EXPORT int64_t isospike_block(void) { return NEURONS; }
