/* Of which sources this build is, and for which machines. */
#include "build.h"

EXPORT const char isospike_stamp[] = ISOSPIKE_STAMP;

EXPORT int64_t isospike_lanes(void) { return LANES; }

/* How many of the instruction sets above "plain" this machine has: see build.py. */
EXPORT int64_t isospike_machine(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (!__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("popcnt")) return 0;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") ? 2 : 1;
#else
    return 0;
#endif
}
