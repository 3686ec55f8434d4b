/* Dense convolutions: see dense.h. */
#include "dense.h"

#define TILE (48 << 10) /* bytes of inputs that a tile reads; more where a row of outputs needs more */

SIZE_OF(dense);

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Outputs along an axis, and inputs under so many of them. */
static int64_t outputs(const struct dense *s, int axis) {
    int64_t size = axis ? s->W : s->H, room = size + 2 * s->padding[axis] - s->dilation[axis] * (s->kernel[axis] - 1) - 1;
    return room < 0 ? 0 : room / s->stride[axis] + 1;
}
static int64_t under(const struct dense *s, int axis, int64_t count) {
    return (count - 1) * s->stride[axis] + s->dilation[axis] * (s->kernel[axis] - 1) + 1;
}

static int64_t taps_of(const struct dense *s) { return s->kernel[0] * s->kernel[1]; }
static int64_t blocks_of(const struct dense *s) { return over(s->O, dense_block(s)); }
static int64_t weights_of_block(const struct dense *s) { return taps_of(s) * s->C * dense_block(s); }

/* Whether pixels can be read where they are. */
static int is_direct(const struct dense *s) { return s->width == 32 && !s->padding[0] && !s->padding[1]; }

/* Pixels from one row to the next of what is read, and rows from one image to the next where it is a tile of so many outputs. */
static int64_t width_of(const struct dense *s) { return is_direct(s) ? s->W : under(s, 1, outputs(s, 1)); }
static int64_t height_of(const struct dense *s, int64_t rows) { return is_direct(s) ? s->H : under(s, 0, rows); }

/* `rows` rows of an image from row `first` on, with what is around them, to [rows][width][C]. */
static void take_rows(const struct dense *s, const void *x, int64_t image, int64_t first, int64_t rows, float *to) {
    const int64_t width = width_of(s);
    const int64_t edge = least(s->padding[1], width), before = edge * s->C, inside = least(s->W, width - edge) * s->C;
    for (int64_t y = first; y < first + rows; y++, to += width * s->C) {
        const int there = y >= 0 && y < s->H;
        memset(to, 0, sizeof(float) * (there ? before : width * s->C));
        if (!there) continue;
        take_floats(x, s->width, (image * s->H + y) * s->W * s->C, inside, to + before);
        memset(to + before + inside, 0, sizeof(float) * (width * s->C - before - inside));
    }
}

/* `images` images from `image` on, of each the output rows `from` to `to`; one that is cut has one image. */
struct tile {
    int64_t image, images, from, to;
};

struct tiling {
    int64_t images, rows, bands, count;
};

/* Small enough for the inner caches, and for every thread to get some. */
static struct tiling tiling_of(const struct dense *s, int64_t threads) {
    int64_t height = outputs(s, 0), row = s->stride[0] * under(s, 1, outputs(s, 1)) * s->C * (int64_t)sizeof(float);
    int64_t fit = most(1, least(TILE / row, over(s->N * height, 4 * threads)));
    struct tiling tiling = {1, least(fit, height), over(height, fit), 0};
    if (tiling.bands == 1) tiling.images = most(1, fit / height);
    tiling.count = over(s->N, tiling.images) * tiling.bands;
    return tiling;
}

/* Where the pixels of a tile begin to read, the first of them at `inputs`. */
static void place_pixels(const struct dense *s, const struct tile *tile, const float *inputs, const float **from) {
    const int64_t width = width_of(s), rows = tile->to - tile->from, high = height_of(s, rows);
    for (int64_t image = 0; image < tile->images; image++)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t column = 0; column < outputs(s, 1); column++)
                *from++ = inputs + ((image * high + row * s->stride[0]) * width + column * s->stride[1]) * s->C;
}

/* All filters of a tile. `inputs` has room for what it reads, `from` for a place of every pixel. */
static void convolve_tile(const struct dense *s, const struct tile *tile, const void *x, const float *packed, const struct runs *runs,
                          int onto, float *inputs, const float **from, float *out) {
    const int64_t rows = tile->to - tile->from, high = height_of(s, rows), above = tile->from * s->stride[0] - s->padding[0];
    const int64_t block = dense_block(s), pixels = tile->images * rows * outputs(s, 1);
    if (is_direct(s))
        place_pixels(s, tile, (const float *)x + (tile->image * s->H + above) * s->W * s->C, from);
    else {
        for (int64_t image = 0; image < tile->images; image++)
            take_rows(s, x, tile->image + image, above, high, inputs + image * high * width_of(s) * s->C);
        place_pixels(s, tile, inputs, from);
    }
    float *first = out + (tile->image * outputs(s, 0) + tile->from) * outputs(s, 1) * s->O; /* the pixels of a tile follow each other */
    for (int64_t b = 0; b < blocks_of(s); b++) {
        struct sums to = {
            .bias = packed + blocks_of(s) * weights_of_block(s) + b * block,
            .out = first + b * block,
            .O = s->O,
            .filters = (int)least(block, s->O - b * block),
            .onto = onto,
        };
        for (int64_t done = 0, count; done < pixels; done += count, to.out += count * s->O) {
            count = pixels - done >= 6 ? 6 : pixels - done >= 4 ? 4 : pixels - done >= 2 ? 2 : 1;
            dense_products(from + done, (int)count, runs, packed + b * weights_of_block(s), dense_wide(s), &to);
        }
    }
}

/* Floats of packed weights: those of every block, then its biases. */
EXPORT int64_t isospike_dense_room(const struct dense *s) { return blocks_of(s) * (weights_of_block(s) + dense_block(s)); }

/* packed [isospike_dense_room()], of weights by four strides and of `bias` [O], NULL for 0. */
EXPORT void isospike_dense_pack(const struct dense *s, const float *weight, const int64_t *step, const float *bias, float *packed,
                                int64_t threads) {
    const int64_t block = dense_block(s);
    float *biases = packed + blocks_of(s) * weights_of_block(s);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < blocks_of(s); b++) {
        float *to = packed + b * weights_of_block(s);
        for (int64_t tap = 0; tap < taps_of(s); tap++)
            for (int64_t c = 0; c < s->C; c++)
                for (int64_t o = b * block; o < (b + 1) * block; o++) {
                    int64_t at = o * step[0] + c * step[1] + tap / s->kernel[1] * step[2] + tap % s->kernel[1] * step[3];
                    *to++ = o < s->O ? weight[at] : 0;
                }
        for (int64_t o = b * block; o < (b + 1) * block; o++) biases[o] = bias && o < s->O ? bias[o] : 0;
    }
}

/* out [N][H'][W'][O] of x [N][H][W][C]; added to what is there where `onto` is set. Returns 0, or 1 where there is no memory. */
EXPORT int64_t isospike_dense(const struct dense *s, const void *x, const float *packed, float *out, int64_t onto, int64_t threads) {
    const int64_t height = outputs(s, 0), width = width_of(s);
    if (s->N == 0 || height == 0 || outputs(s, 1) == 0) return 0;
    const struct tiling tiling = tiling_of(s, threads);
    const int64_t room = is_direct(s) ? 0 : tiling.images * under(s, 0, tiling.rows) * width * s->C, pixels = tiling.images * tiling.rows * outputs(s, 1);
    const int together = s->dilation[1] == 1; /* the taps of a row lie side by side then */
    const struct runs runs = {NULL, together ? s->kernel[0] : taps_of(s), together ? s->kernel[1] * s->C : s->C};
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *inputs = room_of(room);
        const float **from = malloc(sizeof(*from) * pixels);
        int64_t *at = malloc(sizeof(*at) * runs.count);
        failed = !inputs || !from || !at;
        struct runs mine = runs;
        mine.at = at;
        for (int64_t run = 0; at && run < runs.count; run++) {
            int64_t across = together ? 1 : s->kernel[1];
            at[run] = (run / across * s->dilation[0] * width + run % across * s->dilation[1]) * s->C;
        }
#pragma omp for schedule(dynamic)
        for (int64_t k = 0; k < tiling.count; k++) {
            if (failed) continue;
            int64_t image = k / tiling.bands * tiling.images, first = k % tiling.bands * tiling.rows;
            struct tile tile = {image, least(tiling.images, s->N - image), first, least(first + tiling.rows, height)};
            convolve_tile(s, &tile, x, packed, &mine, (int)onto, inputs, from, out);
        }
        free(inputs), free(from), free(at);
    }
    return failed > 0;
}
