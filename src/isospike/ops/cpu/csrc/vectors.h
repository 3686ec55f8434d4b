/* Vectors of floats, for the inner loops of dense products. */
#pragma once
#include "build.h"

#if LANES > 4
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float in_register __attribute__((vector_size(4 * LANES)));
#define AT(p) (*(vector *)(p)) /* wherever it lies */

/* sum + w * x of a vector w and a number x, rounded once where the machine can. */
#if LANES == 16
#define MULTIPLY_ADD(w, x, sum) _mm512_fmadd_ps(w, _mm512_set1_ps(x), sum)
#elif LANES == 8
#define MULTIPLY_ADD(w, x, sum) _mm256_fmadd_ps(w, _mm256_set1_ps(x), sum)
#elif defined(__aarch64__)
#define MULTIPLY_ADD(w, x, sum) vfmaq_n_f32(sum, w, x)
#else
#define MULTIPLY_ADD(w, x, sum) ((w) * (x) + (sum))
#endif
