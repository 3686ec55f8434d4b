/* The inner loops of the convolutions of spikes for every width of vectors, and which of them this machine has. */
#include "spike_conv.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define MACHINE {LANES, NAME(scatter_any), NAME(gather_any), NAME(take_row), NAME(put_row)}

#define LANES 16
#define TARGET "avx512f,bmi"
#define NAME(f) f##_avx512
#include "spike_lanes.h"
static const struct machine avx512 = MACHINE;
#undef LANES
#undef TARGET
#undef NAME

#define LANES 8
#define TARGET "avx2,bmi"
#define NAME(f) f##_avx2
#include "spike_lanes.h"
static const struct machine avx2 = MACHINE;

const struct machine *isospike_machine(int64_t lanes) { return lanes == avx512.lanes ? &avx512 : &avx2; }

/* Of the widest vectors that this machine has, 0 where nothing is known to be fast. */
int64_t isospike_spike_conv_lanes(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("bmi")) return 0;
    return __builtin_cpu_supports("avx512f") ? avx512.lanes : __builtin_cpu_supports("avx2") ? avx2.lanes : 0;
}
#else
const struct machine *isospike_machine(int64_t lanes) { return (void)lanes, NULL; }
int64_t isospike_spike_conv_lanes(void) { return 0; }
#endif
