/* The inner loops of the dense convolutions for every width of vectors, and which of them this machine has. */
#include "dense.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define MACHINE {LANES, NAME(weights), NAME(inputs), NAME(products), NAME(outputs)}

#define LANES 16
#define TARGET "avx512f"
#define NAME(f) f##_avx512
#define REGISTER __m512
#define FMA _mm512_fmadd_ps
#define ZERO _mm512_setzero_ps
#define ALL _mm512_set1_ps
#define LOAD _mm512_loadu_ps
#include "dense_lanes.h"
static const struct dense_machine avx512 = MACHINE;
#undef LANES
#undef TARGET
#undef NAME
#undef REGISTER
#undef FMA
#undef ZERO
#undef ALL
#undef LOAD

#define LANES 8
#define TARGET "avx2,fma"
#define NAME(f) f##_avx2
#define REGISTER __m256
#define FMA _mm256_fmadd_ps
#define ZERO _mm256_setzero_ps
#define ALL _mm256_set1_ps
#define LOAD _mm256_loadu_ps
#include "dense_lanes.h"
static const struct dense_machine avx2 = MACHINE;

const struct dense_machine *isospike_dense_machine(int64_t lanes) { return lanes == avx512.lanes ? &avx512 : &avx2; }

/* Of the widest vectors that this machine has, 0 where nothing is known to be fast. */
int64_t isospike_dense_lanes(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return avx512.lanes;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2.lanes : 0;
}
#else
const struct dense_machine *isospike_dense_machine(int64_t lanes) { return (void)lanes, NULL; }
int64_t isospike_dense_lanes(void) { return 0; }
#endif
