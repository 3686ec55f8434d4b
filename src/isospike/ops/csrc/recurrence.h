/* One block of neurons of one level through all time steps, forward and backward. */
#pragma once
#include "rule.h"

#define BLOCK 1024 /* at most so many neurons */

#define ALIGNED _Alignas(64) /* vectors that straddle two lines of the cache cost twice */

/* NULL where there is no memory. */
INLINE float *room_of(int64_t floats) { return aligned_alloc(64, (sizeof(float) * floats + 63) / 64 * 64); }

INLINE double dot(int n, const float *restrict a, const float *restrict b) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* One block of n neurons through T steps of one level. `s` is added to where `add` is set. */
INLINE void forward_level(const struct rule *r, float threshold, int T, int n, const float *x, int64_t x_step, float *v,
                          float *s, int64_t s_step, int add) {
    const float decay = r->decay, gain = r->gain;
    for (int t = 0; t < T; t++) {
        const float *restrict x_t = x + t * x_step;
        float *restrict s_t = s + t * s_step, *restrict v_t = v;
        for (int i = 0; i < n; i++) {
            float h = decay * v_t[i] + gain * x_t[i];
            float fired = spike(r, h, threshold);
            v_t[i] = after(r, h, fired, threshold);
            s_t[i] = add ? s_t[i] + fired : fired;
        }
    }
}

/* The same backwards: adds to dx where `add` is set, and to coefficients[0] and [1] the gradients of decay and gain. On entry dv
 * is the gradient of the potential behind the last step, on return that of the one before the first. `h` and `v` have room for T
 * and T + 1 steps of `room` neurons. */
INLINE void backward_level(const struct rule *r, float threshold, int T, int n, const float *x, int64_t x_step, float *h,
                           float *v, const float *ds, int64_t s_step, float *dv, float *dx, int add,
                           int64_t room, double *coefficients) {
    const float decay = r->decay, gain = r->gain;
    for (int t = 0; t < T; t++) {
        const float *restrict x_t = x + t * x_step, *restrict v_t = v + t * room;
        float *restrict h_t = h + t * room, *restrict next = v + (t + 1) * room;
        for (int i = 0; i < n; i++) {
            h_t[i] = decay * v_t[i] + gain * x_t[i];
            next[i] = after(r, h_t[i], spike(r, h_t[i], threshold), threshold);
        }
    }
    for (int t = T - 1; t >= 0; t--) {
        const float *restrict ds_t = ds + t * s_step;
        float *restrict dx_t = dx + t * s_step, *restrict dv_t = dv, *restrict h_t = h + t * room;
        for (int i = 0; i < n; i++) {
            float window = slope(r, h_t[i], threshold);
            float s = spike(r, h_t[i], threshold);
            float kept = r->subtract ? 1.0f : (s != 0 ? 0.0f : 1.0f);
            float through = r->subtract ? -threshold : r->v_reset - h_t[i];
            if (!r->detach) kept += window * through;
            float dh = ds_t[i] * window + dv_t[i] * kept;
            dx_t[i] = add ? dx_t[i] + gain * dh : gain * dh;
            dv_t[i] = decay * dh;
            h_t[i] = dh; /* the potential is not needed again */
        }
        if (coefficients) {
            coefficients[0] += dot(n, h_t, v + t * room);
            coefficients[1] += dot(n, h_t, x + t * x_step);
        }
    }
}
