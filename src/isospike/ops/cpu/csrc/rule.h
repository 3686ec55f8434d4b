/* When a neuron fires, what is left then, and how steep its surrogate is: FireRule and IntegerRule of isospike.ops.rule. */
#pragma once
#include <math.h>
#include <stdlib.h>

#include "build.h"

#define INLINE static inline __attribute__((always_inline))

enum surrogate { RECTANGLE, ARCTAN, SIGMOID, TRIANGLE };

/* One neuron's rule; `thresholds` has `levels` entries, each level with a potential of its own. Where `integer` is not 0
 * there is one threshold, and a spike is the nearest integer in {0, ..., integer} to the potential in thresholds. */
struct rule {
    float decay, gain, v_reset, parameter;
    int32_t subtract, strict, detach, surrogate, levels, integer;
    float thresholds[16];
};

/* At one threshold. */
INLINE int fires(const struct rule *r, float h, float threshold) {
    float u = h - threshold;
    return r->strict ? u > 0 : u >= 0;
}

INLINE float spike(const struct rule *r, float h, float threshold) {
    if (r->integer) {
        float u = h / threshold;
        u = u < 0 ? 0 : u;
        u = u > (float)r->integer ? (float)r->integer : u;
        return rintf(u);
    }
    return fires(r, h, threshold) ? 1.0f : 0.0f;
}

INLINE float after(const struct rule *r, float h, float s, float threshold) {
    if (r->subtract) return h - s * threshold;
    return s != 0 ? r->v_reset : h;
}

/* Of a rectangle. */
INLINE int window_open(const struct rule *r, float h, float threshold) { return fabsf(h - threshold) < r->parameter / 2; }

INLINE float slope(const struct rule *r, float h, float threshold) {
    if (r->integer) {
        float u = h / threshold;
        return (u >= 0 && u <= (float)r->integer) ? 1.0f / threshold : 0.0f;
    }
    float u = h - threshold, p = r->parameter;
    if (r->surrogate == RECTANGLE) return window_open(r, h, threshold) ? 1.0f / p : 0.0f;
    if (r->surrogate == ARCTAN) {
        float w = 1.57079632679489662f * p * u;
        return p / 2 / (1 + w * w);
    }
    if (r->surrogate == TRIANGLE) {
        float w = 1 - fabsf(u) / p;
        return (w < 0 ? 0 : w) / p; /* of NaN it is NaN */
    }
    float s = 1 / (1 + expf(-p * u));
    return p * s * (1 - s);
}

/* The flags are the same for a whole tensor: naming them here lets the compiler make a loop without branches for each. */
#define WITH_FLAGS(CALL)                                                                                   \
    do {                                                                                                   \
        struct rule fixed = *r;                                                                            \
        if (!r->integer && r->surrogate == RECTANGLE && !r->subtract) {                                    \
            fixed.integer = 0, fixed.surrogate = RECTANGLE, fixed.subtract = 0;                            \
            const struct rule *q = &fixed; CALL;                                                           \
        } else if (!r->integer && r->surrogate == ARCTAN && !r->subtract) {                                \
            fixed.integer = 0, fixed.surrogate = ARCTAN, fixed.subtract = 0;                               \
            const struct rule *q = &fixed; CALL;                                                           \
        } else if (!r->integer && r->surrogate == RECTANGLE && !r->strict) {                               \
            fixed.integer = 0, fixed.surrogate = RECTANGLE, fixed.subtract = 1, fixed.strict = 0;          \
            const struct rule *q = &fixed; CALL;                                                           \
        } else if (r->integer > 0 && r->subtract) {                                                        \
            fixed.subtract = 1;                                                                            \
            const struct rule *q = &fixed; CALL;                                                           \
        } else { const struct rule *q = r; CALL; }                                                         \
    } while (0)

INLINE void copy_or_zero(int n, const float *from, float *to) {
    for (int i = 0; i < n; i++) to[i] = from ? from[i] : 0.0f;
}
