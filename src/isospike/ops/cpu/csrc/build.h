/* What differs between builds of these sources, and what a build shows to the outside: everything else is hidden. */
#pragma once
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* Python asks whether its own layout of a struct has this size. */
#define SIZE_OF(name) EXPORT const int64_t isospike_size_##name = sizeof(struct name)

/* Floats of a vector. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define VECTOR (4 * LANES) /* bytes of it */

/* Registers for vectors. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define REGISTERS 32
#else
#define REGISTERS 16
#endif
