/* Convolutions of spikes that add a weight where there is a spike, and do nothing where there is none: their time falls with the
 * rate of firing. 3x3 padded by 1, or 1x1; stride 1 or 2; channels last; C a multiple of 8.
 *
 * Spikes are bits, [N][H][W][C] in this order, so that one word names the channels that fired at a pixel. Output channels are
 * done a block at a time, the weights of a block and 64 input channels in the innermost cache. Every input pixel adds to the
 * pixels that it reaches (forward), or takes the gradient of them (backward), in vectors over the block's channels: registers
 * hold nine of them at stride 1. At stride 2 the pixels reach 1, 2 or 4, by the parity of row and column: so weights are kept by
 * parity. The order of every sum is fixed by the shape: bits do not depend on the number of threads, nor (forward) on the batch.
 */
#include <string.h>

#include "bits.h"
#include "recurrence.h"

#define FORWARD_ROOM (256 << 10) /* bytes of a tile of the output: three rows of it are in use at a time */
#define BACKWARD_ROOM (36 << 10) /* of the gradient: every channel walks over the whole of it */
#define PARTS_ROOM (4 << 20)     /* of all partial sums of the weights' gradient */
#define MOST_PARTS 16

struct geometry {
    int64_t N, C, H, W, O, kernel, stride, lanes; /* lanes: of the vectors to take; isospike_spike_conv_lanes() at most */
};

/* What fired: bits, [N][H][W][C], 8 bytes behind which may be read; and how often, in bytes, NULL where it is once. */
struct spikes {
    const uint8_t *fired, *counts;
};

/* Pixels of a row of one parity, `apart` elements from each other: their bits, of which `mask` are looked at, and counts; `to`
 * where the first of them reaches, one block further for each, `to_step` from one row to the next. */
struct row {
    const uint8_t *fired, *counts;
    int64_t apart, pixels, to_step;
    uint64_t mask;
    const float *w;
    float *to, *d_x; /* d_x: of the first pixel, where its gradient is asked for */
};

/* Where one channel fired in a tile, in words of 64 pixels: `place` is where each of them reaches in g; its count lies
 * pixel * apart behind the first. */
struct channel {
    const uint64_t *fired;
    const uint8_t *counts;
    int64_t words, apart, g_step;
    const int32_t *pixel, *place;
    const float *g;
};

/* The inner loops for vectors of so many floats. */
struct machine {
    int64_t lanes;
    void (*scatter)(const struct row *row, int rows, int cols, int wide);
    void (*collect)(const struct row *row, int rows, int cols, int wide);
    void (*gather)(const struct channel *channel, float *sums, int rows, int cols, int wide);
    void (*take_row)(const float *g, int64_t O, int64_t pixels, int wide, float *to);
    void (*put_row)(const float *from, const float *bias, int onto, int64_t O, int64_t pixels, int wide, float *out);
};

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define MACHINE {LANES, NAME(scatter_any), NAME(collect_any), NAME(gather_any), NAME(take_row), NAME(put_row)}

/* Sums over the lanes of four vectors: two by two they are interleaved and added, until four lanes are left. */
__attribute__((target("avx512f"))) static inline __attribute__((always_inline)) void sum_lanes_avx512(__m512 a, __m512 b, __m512 c,
                                                                                                   __m512 d, float *sums) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    __m512 all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    __m512 half = _mm512_add_ps(all, _mm512_shuffle_f32x4(all, all, 0x4E));
    _mm_storeu_ps(sums, _mm_add_ps(_mm512_castps512_ps128(half), _mm512_extractf32x4_ps(half, 1)));
}

__attribute__((target("avx2"))) static inline __attribute__((always_inline)) void sum_lanes_avx2(__m256 a, __m256 b, __m256 c, __m256 d,
                                                                                               float *sums) {
    __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    __m256d low = _mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    __m256d high = _mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    __m256 all = _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

#define LANES 16
#define TARGET "avx512f,bmi"
#define NAME(f) f##_avx512
#include "spike_conv.h"
static const struct machine avx512 = MACHINE;
#undef LANES
#undef TARGET
#undef NAME
#define LANES 8
#define TARGET "avx2,bmi"
#define NAME(f) f##_avx2
#include "spike_conv.h"
static const struct machine avx2 = MACHINE;

static const struct machine *machine_of(int64_t lanes) { return lanes == avx512.lanes ? &avx512 : &avx2; }

/* Of the widest vectors that this machine has, 0 where nothing is known to be fast. */
int64_t isospike_spike_conv_lanes(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("bmi")) return 0;
    return __builtin_cpu_supports("avx512f") ? avx512.lanes : __builtin_cpu_supports("avx2") ? avx2.lanes : 0;
}
#else
static const struct machine *machine_of(int64_t lanes) { return (void)lanes, NULL; }
int64_t isospike_spike_conv_lanes(void) { return 0; }
#endif

/* Shapes ---------------------------------------------------------------------------------------------------------------- */

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t over(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t out_size(const struct geometry *s, int64_t size) { return (size - 1) / s->stride + 1; }
static int wide_of(const struct geometry *s) { return s->kernel == 1 ? 4 : s->stride == 1 ? 1 : 2; } /* vectors of a block */
static int64_t block_of(const struct geometry *s) { return wide_of(s) * s->lanes; }
static int64_t blocks_of(const struct geometry *s) { return over(s->O, block_of(s)); }
static int64_t width_of(const struct geometry *s) { return (out_size(s, s->W) + 2) * block_of(s); } /* a row of a tile */

/* What the pixels of one parity reach along an axis: pixel stride * q + parity reaches outputs q + first, q + first + 1, ...,
 * through these taps of the kernel. */
struct reach {
    int count, first, taps[3];
};

static struct reach reach_of(const struct geometry *s, int parity) {
    struct reach reach = {0};
    for (int tap = (int)s->kernel - 1; tap >= 0; tap--) {
        int distance = parity + (int)s->kernel / 2 - tap;
        if (distance % s->stride) continue;
        if (!reach.count) reach.first = distance / (int)s->stride;
        reach.taps[reach.count++] = tap;
    }
    return reach;
}

/* Rows and columns of a pixel of one parity, its weights [C][rows][cols][block] at `at` in those of a block. */
struct parity {
    int py, px;
    struct reach rows, cols;
    int64_t at;
};

static int parities_of(const struct geometry *s, struct parity *all) {
    int count = 0;
    int64_t at = 0;
    for (int py = 0; py < s->stride; py++)
        for (int px = 0; px < s->stride; px++) {
            struct parity parity = {py, px, reach_of(s, py), reach_of(s, px), at};
            if (!parity.rows.count || !parity.cols.count) continue;
            all[count++] = parity;
            at += s->C * parity.rows.count * parity.cols.count * block_of(s);
        }
    return count;
}

static int64_t weights_of_block(const struct geometry *s) { return s->C * s->kernel * s->kernel * block_of(s); }

/* Whole images, or some rows of one; rows are those of the output. */
struct tile {
    int64_t image, images, from, to;
};

struct tiling {
    int64_t images, rows, bands, count;
};

static struct tiling tiling_of(const struct geometry *s, int64_t bytes, int64_t most_images) {
    int64_t height = out_size(s, s->H), row = width_of(s) * (int64_t)sizeof(float), fit = larger(bytes / row, 8);
    struct tiling tiling = {1, height, 1, 0};
    if (height + 2 <= fit)
        tiling.images = larger(smaller(fit / (height + 2), most_images), 1);
    else
        tiling.bands = over(height, fit - 4), tiling.rows = over(height, tiling.bands);
    tiling.count = over(s->N, tiling.images) * tiling.bands;
    return tiling;
}

static struct tile tile_at(const struct geometry *s, const struct tiling *tiling, int64_t index) {
    int64_t image = index / tiling->bands * tiling->images, from = index % tiling->bands * tiling->rows;
    struct tile tile = {image, smaller(tiling->images, s->N - image), from, smaller(from + tiling->rows, out_size(s, s->H))};
    return tile;
}

/* The caller's weights, by four strides. */
struct weights {
    float *data;
    const int64_t *step; /* of O, C, rows, columns */
};

/* Where a block keeps the weights of one tap of the kernel: channel c at `at + c * apart`. */
struct tap {
    int y, x;
    int64_t at, apart;
};

static int taps_of(const struct geometry *s, struct tap *taps) {
    struct parity all[4];
    int parities = parities_of(s, all), count = 0;
    for (int k = 0; k < parities; k++)
        for (int i = 0; i < all[k].rows.count; i++)
            for (int j = 0; j < all[k].cols.count; j++) {
                int64_t apart = all[k].rows.count * all[k].cols.count * block_of(s);
                int64_t at = all[k].at + (i * all[k].cols.count + j) * block_of(s);
                taps[count++] = (struct tap){all[k].rows.taps[i], all[k].cols.taps[j], at, apart};
            }
    return count;
}

/* The weights of block b; channels that fill up the last one are 0. A few input channels at a time keep both sides in cache. */
static void pack_block(const struct geometry *s, const struct weights *w, int64_t b, float *restrict to) {
    int64_t block = block_of(s), n = smaller(block, s->O - b * block);
    struct tap taps[9];
    int count = taps_of(s, taps);
    if (n < block) memset(to, 0, sizeof(float) * weights_of_block(s));
    for (const struct tap *tap = taps; tap < taps + count; tap++)
        for (int64_t c0 = 0; c0 < s->C; c0 += 8)
            for (int64_t o = 0; o < n; o++) {
                const float *from = w->data + (b * block + o) * w->step[0] + tap->y * w->step[2] + tap->x * w->step[3];
                for (int64_t c = c0; c < c0 + 8; c++) to[tap->at + c * tap->apart + o] = from[c * w->step[1]];
            }
}

/* The same back, from the sum of `parts`, which lie `apart` floats from each other. */
static void unpack_block(const struct geometry *s, const struct weights *w, int64_t b, float *restrict parts, int64_t count,
                         int64_t apart) {
    int64_t block = block_of(s), n = smaller(block, s->O - b * block);
    struct tap taps[9];
    int tap_count = taps_of(s, taps);
    for (int64_t part = 1; part < count; part++)
        for (int64_t i = 0; i < weights_of_block(s); i++) parts[i] += parts[part * apart + i];
    for (const struct tap *tap = taps; tap < taps + tap_count; tap++)
        for (int64_t c0 = 0; c0 < s->C; c0 += 8)
            for (int64_t o = 0; o < n; o++) {
                float *to = w->data + (b * block + o) * w->step[0] + tap->y * w->step[2] + tap->x * w->step[3];
                for (int64_t c = c0; c < c0 + 8; c++) to[c * w->step[1]] = parts[tap->at + c * tap->apart + o];
            }
}

/* Forward --------------------------------------------------------------------------------------------------------------- */

typedef void walk(const struct row *row, int rows, int cols, int wide);

/* Calls `visit` for all rows of input pixels [first, last) of the images of a tile, 64 channels after 64, with the bits and
 * counts of their pixels, their weights, and where they reach in `room` [images][rows + 2 halo][width + 2][block]. */
static void visit_tile(const struct geometry *s, const struct tile *tile, int64_t first, int64_t last, int64_t halo,
                       const struct spikes *spikes, const float *w, float *room, float *d_x, walk *visit) {
    int64_t stride = s->stride, block = block_of(s), width = width_of(s), rows = tile->to - tile->from + 2 * halo;
    struct parity all[4];
    int count = parities_of(s, all);
    for (int64_t c = 0; c < s->C; c += WORD) {
        int64_t channels = smaller(WORD, s->C - c);
        uint64_t mask = channels == WORD ? ~(uint64_t)0 : ((uint64_t)1 << channels) - 1;
        for (int64_t image = 0; image < tile->images; image++)
            for (int64_t y = first; y < last; y++)
                for (int k = 0; k < count; k++) {
                    const struct parity *p = &all[k];
                    int reached = p->rows.count * p->cols.count;
                    if (y % stride != p->py || p->px >= s->W) continue;
                    int64_t at = (((tile->image + image) * s->H + y) * s->W + p->px) * s->C + c;
                    struct row row = {
                        .fired = spikes->fired + at / 8,
                        .counts = spikes->counts ? spikes->counts + at : NULL,
                        .apart = stride * s->C,
                        .pixels = over(s->W - p->px, stride),
                        .to_step = width,
                        .mask = mask,
                        .w = w + p->at + c * reached * block,
                        .to = room + (image * rows + y / stride + p->rows.first - tile->from + halo) * width +
                              (p->cols.first + 1) * block,
                        .d_x = d_x ? d_x + at : NULL,
                    };
                    visit(&row, p->rows.count, p->cols.count, wide_of(s));
                }
    }
}

/* `bias` of the whole block. */
static void put_tile(const struct geometry *s, const struct tile *tile, int64_t halo, const float *room, int64_t b,
                     const float *bias, int onto, float *out) {
    const struct machine *machine = machine_of(s->lanes);
    int64_t block = block_of(s), n = smaller(block, s->O - b * block), width = out_size(s, s->W), height = out_size(s, s->H);
    int64_t rows = tile->to - tile->from;
    for (int64_t image = 0; image < tile->images; image++)
        for (int64_t y = 0; y < rows; y++) {
            const float *from = room + ((image * (rows + 2 * halo) + y + halo) * (width + 2) + 1) * block;
            float *to = out + ((tile->image + image) * height + tile->from + y) * width * s->O + b * block;
            if (n == block)
                machine->put_row(from, bias, onto, s->O, width, wide_of(s), to);
            else
                for (int64_t x = 0; x < width; x++)
                    for (int64_t o = 0; o < n; o++) {
                        float sum = from[x * block + o] + bias[o];
                        to[x * s->O + o] = onto ? to[x * s->O + o] + sum : sum;
                    }
        }
}

/* Floats of packed weights: those of every block, then its biases. */
int64_t isospike_spike_conv_room(const struct geometry *s) { return blocks_of(s) * (weights_of_block(s) + block_of(s)); }

/* packed [isospike_spike_conv_room()], of weights by four strides and `bias` [O] or NULL. */
void isospike_spike_conv_pack(const struct geometry *s, const float *weight, const int64_t *weight_step, const float *bias,
                              float *packed, int64_t threads) {
    int64_t blocks = blocks_of(s), block = block_of(s), of_block = weights_of_block(s);
    struct weights w = {(float *)weight, weight_step};
    float *biases = packed + blocks * of_block;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < blocks; b++) {
        pack_block(s, &w, b, packed + b * of_block);
        for (int64_t o = b * block; o < (b + 1) * block; o++) biases[o] = bias && o < s->O ? bias[o] : 0;
    }
}

/* out [N][H'][W'][O]; the sum is added to what is there where `onto` is set. Returns 0, or 1 where there is no memory. */
int isospike_spike_conv(const struct geometry *s, const struct spikes *spikes, const float *packed, float *out, int64_t onto,
                        int64_t threads) {
    int64_t blocks = blocks_of(s), block = block_of(s), of_block = weights_of_block(s);
    struct tiling tiling = tiling_of(s, FORWARD_ROOM, over(s->N * blocks, 4 * threads));
    int64_t halo = tiling.bands > 1 ? 2 : 1, room_size = tiling.images * (tiling.rows + 2 * halo) * width_of(s);
    const float *biases = packed + blocks * of_block;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *room = room_of(room_size);
        failed = room == NULL;
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t k = 0; k < tiling.count; k++) {
                if (!room) continue;
                struct tile tile = tile_at(s, &tiling, k);
                int64_t first = larger(0, s->stride * tile.from - s->kernel / 2);
                int64_t last = smaller(s->H, s->stride * (tile.to - 1) + s->kernel / 2 + 1);
                memset(room, 0, sizeof(float) * room_size);
                visit_tile(s, &tile, first, last, halo, spikes, packed + b * of_block, room, NULL, machine_of(s->lanes)->scatter);
                put_tile(s, &tile, halo, room, b, biases + b * block, (int)onto, out);
            }
        free(room);
    }
    return failed > 0;
}

/* Backward -------------------------------------------------------------------------------------------------------------- */

/* The pixels of a tile by parity, each parity filled up to whole words: `pixel` counted from the tile's first, -1 where there
 * is none; `place` where it reaches in the tile of g. */
struct order {
    int64_t start[5], length; /* start of each parity, and the end of the last */
    int32_t *pixel, *place;
};

/* At most so many for any tile. */
static int64_t order_room(const struct geometry *s, const struct tiling *tiling) {
    int64_t of_parity = over(tiling->images * tiling->rows * over(s->W, s->stride), WORD) * WORD;
    return s->stride * s->stride * of_parity;
}

static void fill_order(const struct geometry *s, const struct tile *tile, struct order *order) {
    int64_t stride = s->stride, block = block_of(s), width = width_of(s), height = tile->to - tile->from;
    int64_t rows = smaller(s->H, stride * tile->to) - stride * tile->from, at = 0;
    struct parity all[4];
    int count = parities_of(s, all);
    for (int k = 0; k < count; k++) {
        const struct parity *p = &all[k];
        order->start[k] = at;
        for (int64_t image = 0; image < tile->images; image++)
            for (int64_t y = p->py; y < rows; y += stride)
                for (int64_t x = p->px; x < s->W; x += stride, at++) {
                    order->pixel[at] = (int32_t)((image * s->H + y) * s->W + x);
                    order->place[at] = (int32_t)((image * (height + 2) + y / stride + p->rows.first + 1) * width +
                                                 (x / stride + p->cols.first + 1) * block);
                }
        for (; at % WORD; at++) order->pixel[at] = -1, order->place[at] = 0;
    }
    order->start[count] = order->length = at;
}

/* Every tile is ordered as the first one or as the last one. */
struct orders {
    struct order first, last;
    int32_t *room;
};

static struct orders orders_of(const struct geometry *s, const struct tiling *tiling) {
    int64_t most = order_room(s, tiling);
    struct orders orders = {.room = malloc(4 * most * sizeof(int32_t))};
    if (!orders.room) return orders;
    struct tile first = tile_at(s, tiling, 0), last = tile_at(s, tiling, tiling->count - 1);
    orders.first = (struct order){.pixel = orders.room, .place = orders.room + most};
    orders.last = (struct order){.pixel = orders.room + 2 * most, .place = orders.room + 3 * most};
    fill_order(s, &first, &orders.first), fill_order(s, &last, &orders.last);
    return orders;
}

static const struct order *order_at(const struct tiling *tiling, const struct orders *orders, int64_t k) {
    int64_t of_image = tiling->bands > 1 ? tiling->bands : tiling->count;
    return (k + 1) % of_image ? &orders->first : &orders->last;
}

static int64_t first_element(const struct geometry *s, const struct tile *tile) {
    return (tile->image * s->H + s->stride * tile->from) * s->W * s->C;
}

/* Bits of a tile by channel: to [C][length / 64] words. */
static void turn_tile(const struct geometry *s, const struct tile *tile, const struct order *order, const uint8_t *fired,
                      uint64_t *to) {
    int64_t row_bytes = s->C / 8, bytes = order->length / 8;
    const uint8_t *base = fired + first_element(s, tile) / 8;
    uint8_t *restrict turned = (uint8_t *)to;
    for (int64_t at = 0; at < bytes; at++) {
        const int32_t *pixel = order->pixel + 8 * at;
        int whole = pixel[7] >= 0;
        for (int64_t c = 0; c < row_bytes; c++) {
            uint64_t bits = 0;
            for (int i = 0; i < 8; i++)
                if (whole || pixel[i] >= 0) bits |= (uint64_t)base[pixel[i] * row_bytes + c] << (8 * i);
            bits = transposed(bits);
            for (int i = 0; i < 8; i++) turned[(8 * c + i) * bytes + at] = (uint8_t)(bits >> (8 * i));
        }
    }
}

/* g of one block of channels, in `room` [images][rows + 2][width + 2][block], 0 around the image. */
static void take_tile(const struct geometry *s, const struct tile *tile, const float *g, int64_t b, float *room) {
    const struct machine *machine = machine_of(s->lanes);
    int64_t block = block_of(s), n = smaller(block, s->O - b * block), width = out_size(s, s->W), height = out_size(s, s->H);
    for (int64_t image = tile->image; image < tile->image + tile->images; image++)
        for (int64_t y = tile->from - 1; y <= tile->to; y++, room += width_of(s)) {
            const float *from = g + (image * height + y) * width * s->O + b * block;
            if (y < 0 || y >= height || n < block) memset(room, 0, sizeof(float) * width_of(s));
            if (y < 0 || y >= height) continue;
            memset(room, 0, sizeof(float) * block), memset(room + (width + 1) * block, 0, sizeof(float) * block);
            if (n == block)
                machine->take_row(from, s->O, width, wide_of(s), room + block);
            else
                for (int64_t x = 0; x < width; x++)
                    for (int64_t o = 0; o < n; o++) room[(x + 1) * block + o] = from[x * s->O + o];
        }
}

/* counts: of the tile's first pixel, or NULL. */
static void gather_tile(const struct geometry *s, const struct order *order, const uint64_t *turned, const uint8_t *counts,
                        const float *g, float *sums) {
    const struct machine *machine = machine_of(s->lanes);
    struct parity all[4];
    int count = parities_of(s, all);
    int64_t words = order->length / WORD;
    for (int k = 0; k < count; k++) {
        int reached = all[k].rows.count * all[k].cols.count;
        struct channel channel = {
            .words = (order->start[k + 1] - order->start[k]) / WORD,
            .apart = s->C,
            .g_step = width_of(s),
            .pixel = order->pixel + order->start[k],
            .place = order->place + order->start[k],
            .g = g,
        };
        for (int64_t c = 0; c < s->C; c++) {
            channel.fired = turned + c * words + order->start[k] / WORD;
            channel.counts = counts ? counts + c : NULL;
            machine->gather(&channel, sums + all[k].at + c * reached * block_of(s), all[k].rows.count, all[k].cols.count, wide_of(s));
        }
    }
}

/* The gradient of the weights, written by `weight_step`, from spikes and the gradient g [N][H'][W'][O] of the output.
 * Returns 0, or 1 where there is no memory. */
int isospike_spike_conv_weight(const struct geometry *s, const struct spikes *spikes, const float *g, float *d_weight,
                               const int64_t *weight_step, int64_t threads) {
    int64_t blocks = blocks_of(s), of_block = weights_of_block(s);
    struct tiling tiling = tiling_of(s, BACKWARD_ROOM, s->N);
    struct orders orders = orders_of(s, &tiling);
    int64_t parts = smaller(larger(PARTS_ROOM / (4 * blocks * of_block), 1), smaller(MOST_PARTS, tiling.count));
    int64_t tile_words = s->C * order_room(s, &tiling) / WORD, room_size = tiling.images * (tiling.rows + 2) * width_of(s);
    struct weights w = {d_weight, weight_step};
    float *sums = calloc(parts * blocks * of_block, sizeof(float));
    uint64_t *turned = malloc(tiling.count * tile_words * sizeof(uint64_t));
    int failed = !sums || !turned || !orders.room;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *room = room_of(room_size);
        int ready = sums && turned && orders.room && room;
        failed += !ready;
#pragma omp for schedule(static)
        for (int64_t k = 0; k < tiling.count; k++) {
            if (!ready) continue;
            struct tile tile = tile_at(s, &tiling, k);
            turn_tile(s, &tile, order_at(&tiling, &orders, k), spikes->fired, turned + k * tile_words);
        }
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t part = 0; part < parts; part++)
            for (int64_t b = 0; b < blocks; b++)
                for (int64_t k = tiling.count * part / parts; ready && k < tiling.count * (part + 1) / parts; k++) {
                    struct tile tile = tile_at(s, &tiling, k);
                    const uint8_t *counts = spikes->counts ? spikes->counts + first_element(s, &tile) : NULL;
                    take_tile(s, &tile, g, b, room);
                    gather_tile(s, order_at(&tiling, &orders, k), turned + k * tile_words, counts, room,
                                sums + (part * blocks + b) * of_block);
                }
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; b++)
            if (ready) unpack_block(s, &w, b, sums + b * of_block, parts, blocks * of_block);
        free(room);
    }
    free(sums), free(turned), free(orders.room);
    return failed > 0;
}

/* d_x [N][H][W][C]: the gradient of the input where `open` has a bit, 0 elsewhere; from packed weights and g as above. Returns
 * 0, or 1 where there is no memory. */
int isospike_spike_conv_input(const struct geometry *s, const uint8_t *open, const float *g, const float *packed, float *d_x,
                              int64_t threads) {
    const struct spikes spikes = {open, NULL};
    struct tiling tiling = tiling_of(s, BACKWARD_ROOM, over(s->N, 4 * threads));
    int64_t room_size = tiling.images * (tiling.rows + 2) * width_of(s);
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *room = room_of(room_size);
        failed = room == NULL;
#pragma omp for schedule(dynamic)
        for (int64_t k = 0; k < tiling.count; k++) {
            if (!room) continue;
            struct tile tile = tile_at(s, &tiling, k);
            int64_t first = s->stride * tile.from, last = smaller(s->H, s->stride * tile.to);
            int64_t size = ((tile.images - 1) * s->H + last - first) * s->W * s->C;
            memset(d_x + first_element(s, &tile), 0, sizeof(float) * size);
            for (int64_t b = 0; b < blocks_of(s); b++) {
                take_tile(s, &tile, g, b, room);
                visit_tile(s, &tile, first, last, 1, &spikes, packed + b * weights_of_block(s), room, d_x,
                           machine_of(s->lanes)->collect);
            }
        }
        free(room);
    }
    return failed > 0;
}
