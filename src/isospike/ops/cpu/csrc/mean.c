/* Means over windows of maps, channels last, whose every sum has one order: row by row. */
#include "bits.h"
#include "recurrence.h"

/* Pairs are of rows and columns; `outputs` are how many windows there are, `width` is the bits of an element, as in infer.c. */
struct window {
    int64_t N, C, H, W, kernel[2], stride[2], padding[2], outputs[2], width;
};

SIZE_OF(window);

/* Where a window begins and ends in a map. */
static void bounds(const struct window *s, int axis, int64_t index, int64_t *from, int64_t *to) {
    const int64_t first = index * s->stride[axis] - s->padding[axis], behind = first + s->kernel[axis], size = axis ? s->W : s->H;
    *from = first < 0 ? 0 : first, *to = behind > size ? size : behind;
}

static void mean(const struct window *s, const void *x, int64_t image, int64_t row, int64_t column, float *restrict pixel,
                 float *restrict out) {
    int64_t y0, y1, x0, x1;
    bounds(s, 0, row, &y0, &y1), bounds(s, 1, column, &x0, &x1);
    memset(out, 0, sizeof(float) * s->C);
    for (int64_t y = y0; y < y1; y++)
        for (int64_t at = x0; at < x1; at++) {
            take_floats(x, s->width, ((image * s->H + y) * s->W + at) * s->C, s->C, pixel);
            for (int64_t c = 0; c < s->C; c++) out[c] += pixel[c];
        }
    const float count = (float)((y1 - y0) * (x1 - x0));
    for (int64_t c = 0; c < s->C; c++) out[c] /= count;
}

/* out [N][outputs][C] of x [N][H][W][C]: the mean of what of a window is inside the map. Returns 0, or 1 where there is no memory. */
EXPORT int64_t isospike_mean(const struct window *s, const void *x, float *out, int64_t threads) {
    const int64_t rows = s->N * s->outputs[0];
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *pixel = room_of(s->C);
        failed = pixel == NULL;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t column = 0; pixel && column < s->outputs[1]; column++)
                mean(s, x, row / s->outputs[0], row % s->outputs[0], column, pixel, out + (row * s->outputs[1] + column) * s->C);
        free(pixel);
    }
    return failed > 0;
}
