/* Events counted into frames: one pass over the events of a frame, which stays in the cache meanwhile. */
#include <string.h>

#include "build.h"

#define BLOCK 512 /* events whose cells are computed together, in vectors */

/* The number behind the first event outside of the sensor, 0 where there is none. */
static int64_t first_outside(int64_t begin, int64_t end, int32_t height, int32_t width, const uint16_t *x,
                             const uint16_t *y, const uint8_t *p) {
    for (int64_t event = begin; event < end; event++)
        if (p[event] > 1 || y[event] >= height || x[event] >= width)
            return event + 1;
    return 0;
}

/* As first_outside. */
static int64_t count_frame(int64_t begin, int64_t end, int32_t height, int32_t width, const uint16_t *restrict x,
                           const uint16_t *restrict y, const uint8_t *restrict p, int32_t *restrict frame) {
    uint32_t cells[BLOCK];
    memset(frame, 0, 2 * (size_t)height * (size_t)width * sizeof *frame);
    for (int64_t from = begin; from < end; from += BLOCK) {
        int n = (int)(end - from < BLOCK ? end - from : BLOCK), outside = 0;
        for (int i = 0; i < n; i++) {
            int32_t column = x[from + i], row = y[from + i], polarity = p[from + i];
            cells[i] = ((uint32_t)polarity * (uint32_t)height + (uint32_t)row) * (uint32_t)width + (uint32_t)column;
            outside |= (column >= width) | (row >= height) | (polarity > 1);
        }
        if (outside)
            return first_outside(from, from + n, height, width, x, y, p);
        for (int i = 0; i < n; i++)
            frame[cells[i]]++;
    }
    return 0;
}

/* Frames of the events from bounds[2 * i] up to bounds[2 * i + 1]. Returns as count_frame, of any frame. */
EXPORT int64_t isospike_count_events(int64_t frames, int64_t height, int64_t width, const int64_t *bounds,
                                     const uint16_t *x, const uint16_t *y, const uint8_t *p, int32_t *out,
                                     int64_t threads) {
    int64_t fault = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(max : fault)
    for (int64_t i = 0; i < frames; i++) {
        int32_t *frame = out + i * 2 * height * width;
        int64_t found = count_frame(bounds[2 * i], bounds[2 * i + 1], (int32_t)height, (int32_t)width, x, y, p, frame);
        fault = found > fault ? found : fault;
    }
    return fault;
}
