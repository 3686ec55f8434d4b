/* One block of neurons of one level through all time steps, forward and backward. */
#pragma once
#include "rule.h"

#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define NEURONS 1024 /* of a block, at most */

#define CHUNK 64   /* neurons whose steps are written past the caches at a time */
#define LINE 16    /* floats of a line of the cache */
#define AHEAD 512  /* floats */

#define ALIGNED _Alignas(64) /* vectors that straddle two lines of the cache cost twice */

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* How many of b hold a. */
static inline int64_t over(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* NULL where there is no memory, never where nothing is asked for. */
INLINE float *room_of(int64_t floats) { return aligned_alloc(64, sizeof(float) * floats / 64 * 64 + 64); }

/* CHUNK floats past the caches: a store that misses them would first read what it overwrites. `settled` comes behind the last
 * one of a thread. */
INLINE void put_past(float *to, const float *from) {
    int i = 0;
#if defined(__SSE2__)
    if ((uintptr_t)to % 16 == 0)
        for (; i < CHUNK; i += 4) _mm_stream_ps(to + i, _mm_load_ps(from + i));
#endif
    for (; i < CHUNK; i++) to[i] = from[i];
}

/* n floats, `ahead` of these, into the inner caches before they are needed: where each of T streams goes on only for a block at a
 * time, the machine does not see it coming. Nothing happens where there is no memory, so addresses are numbers here: a pointer
 * must not leave what it points into. */
INLINE void fetch(const float *from, int ahead, int n) {
    for (int i = ahead; i < ahead + n; i += LINE) __builtin_prefetch((const void *)((uintptr_t)from + sizeof(float) * i));
}

/* The same of what will be written: a store that misses the caches reads first. */
INLINE void fetch_to_write(const float *to, int ahead, int n) {
    for (int i = ahead; i < ahead + n; i += LINE) __builtin_prefetch((const void *)((uintptr_t)to + sizeof(float) * i), 1);
}

INLINE void settled(void) {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

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

/* The same of a block of whole chunks, from v (NULL for rest) to `end`; s and `end` are written past the caches. */
INLINE void forward_past(const struct rule *r, float threshold, int T, int n, const float *x, int64_t x_step, const float *v,
                         float *end, float *s, int64_t s_step) {
    ALIGNED float now[CHUNK], out[CHUNK];
    for (int from = 0; from < n; from += CHUNK) {
        copy_or_zero(CHUNK, v ? v + from : NULL, now);
        for (int t = 0; t < T; t++) {
            fetch(x + t * x_step + from, AHEAD, CHUNK);
            forward_level(r, threshold, 1, CHUNK, x + t * x_step + from, 0, now, out, 0, 0);
            put_past(s + t * s_step + from, out);
        }
        put_past(end + from, now);
    }
}

/* The same backwards: adds to dx where `add` is set, and to coefficients[0] and [1] the gradients of decay and gain. On entry dv
 * is the gradient of the potential behind the last step, on return that of the one before the first. `h` and `v` have room for T
 * and T + 1 steps of `room` neurons. dx may be ds where nothing is added. */
INLINE void backward_level(const struct rule *r, float threshold, int T, int n, const float *x, int64_t x_step, float *h,
                           float *v, const float *ds, int64_t s_step, float *dv, float *dx,
                           int64_t dx_step, int add, int64_t room, double *coefficients) {
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
        const float *ds_t = ds + t * s_step;
        float *dx_t = dx + t * dx_step, *restrict dv_t = dv, *restrict h_t = h + t * room;
#pragma omp simd
        for (int i = 0; i < n; i++) {
            float window = slope(r, h_t[i], threshold);
            float s = spike(r, h_t[i], threshold);
            float kept = r->subtract ? 1.0f : (s != 0 ? 0.0f : 1.0f);
            float through = r->subtract ? -threshold : r->v_reset - (h_t[i] == INFINITY ? 0 : h_t[i]);
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

/* The same of a block of whole chunks, past the caches; `out` has room for T steps of a chunk. */
INLINE void backward_past(const struct rule *r, float threshold, int T, int n, const float *x, int64_t x_step, float *h, float *v,
                          const float *ds, int64_t s_step, float *dv, float *dx, float *out, double *coefficients) {
    ALIGNED float now[CHUNK];
    for (int from = 0; from < n; from += CHUNK) {
        memcpy(now, v + from, sizeof(now));
        memcpy(h + (int64_t)T * CHUNK, now, sizeof(now));
        backward_level(r, threshold, T, CHUNK, x + from, x_step, h, h + (int64_t)T * CHUNK, ds + from, s_step, dv + from, out, CHUNK, 0,
                       CHUNK, coefficients);
        for (int t = 0; t < T; t++) put_past(dx + t * s_step + from, out + t * CHUNK);
    }
}
