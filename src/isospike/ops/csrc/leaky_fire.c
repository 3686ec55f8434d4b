/* The recurrence of isospike.ops.leaky_fire on float32, forward and backward.
 *
 * Memory is [T][N]: N neurons in any one order, `x_step` elements from one step of the current to the next (0 where it is
 * the same at every step). Work is cut into blocks of neurons that stay in the cache; the backward keeps nothing of the
 * forward but its input, and computes the potentials of a block anew. Multiplication and addition are never fused
 * (-ffp-contract=off), so that potentials have the bits of the eager reference.
 */
#include "recurrence.h"

ALL_MACHINES
void forward_block(const struct rule *r, int T, int n, int64_t N, const float *x, int64_t x_step, const float *v, float *end,
                   float *s) {
    for (int k = 0; k < r->levels; k++) {
        copy_or_zero(n, v ? v + k * N : NULL, end + k * N);
        WITH_FLAGS(forward_level(q, r->thresholds[k], T, n, x, x_step, end + k * N, s, N, k > 0));
    }
}

ALL_MACHINES
void backward_block(const struct rule *r, int T, int n, int64_t N, const float *x, int64_t x_step, const float *v,
                    const float *ds, const float *d_end, float *dv, float *dx, float *room, double *coefficients) {
    float *d = room, *h = d + BLOCK, *u = h + (int64_t)T * BLOCK;
    for (int k = 0; k < r->levels; k++) {
        copy_or_zero(n, v ? v + k * N : NULL, u);
        copy_or_zero(n, d_end ? d_end + k * N : NULL, d);
        WITH_FLAGS(backward_level(q, r->thresholds[k], T, n, x, x_step, h, u, ds, N, d, dx, k > 0, BLOCK, coefficients));
        if (dv) copy_or_zero(n, d, dv + k * N);
    }
}

/* v [levels][N]: potentials before the first step, NULL for rest; end [levels][N]: room for those behind the last. */
void isospike_forward(const struct rule *r, int64_t T, int64_t N, const float *x, int64_t x_step, const float *v, float *end,
                      float *s, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t start = 0; start < N; start += BLOCK) {
        int n = (int)(N - start < BLOCK ? N - start : BLOCK);
        forward_block(r, (int)T, n, N, x + start, x_step, v ? v + start : NULL, end + start, s + start);
    }
}

/* ds [T][N] and d_end [levels][N] (NULL for 0): gradients of the spikes and of the potentials behind the last step. dv
 * [levels][N]: room for the gradient of the potentials before the first step, or NULL; dx [T][N]: room for that of the
 * current; coefficients [blocks][2], 0 on entry: each block's share of the gradients of decay and gain, or NULL. Returns 0,
 * or 1 where there is no memory. */
int isospike_backward(const struct rule *r, int64_t T, int64_t N, const float *x, int64_t x_step, const float *v,
                      const float *ds, const float *d_end, float *dv, float *dx, double *coefficients, int64_t threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *room = room_of(BLOCK * (2 * T + 2));
        failed = room == NULL;
#pragma omp for schedule(static)
        for (int64_t start = 0; start < N; start += BLOCK) {
            int n = (int)(N - start < BLOCK ? N - start : BLOCK);
            if (room)
                backward_block(r, (int)T, n, N, x + start, x_step, v ? v + start : NULL, ds + start,
                               d_end ? d_end + start : NULL, dv ? dv + start : NULL, dx + start, room,
                               coefficients ? coefficients + 2 * (start / BLOCK) : NULL);
        }
        free(room);
    }
    return failed > 0;
}

int64_t isospike_block(void) { return BLOCK; }
