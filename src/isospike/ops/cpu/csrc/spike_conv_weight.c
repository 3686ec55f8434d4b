/* The gradient of the weights of a convolution of spikes: see spike_conv.h. */
#include "spike_conv.h"

#define GRADIENT_TILE (36 << 10) /* bytes of a tile of the output's gradient, over which every channel walks */
#define PARTIAL_SUMS (4 << 20)   /* bytes of all of them */
#define MOST_PARTS 16

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
    struct orders orders = {.room = malloc(4 * (most + 1) * sizeof(int32_t))};
    if (!orders.room) return orders;
    if (tiling->count == 0) return orders;
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

/* Bit i of byte j becomes bit j of byte i. */
static uint64_t transposed(uint64_t x) {
    uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
    x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
    return x ^ t ^ (t << 28);
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
    int64_t block = block_of(s), n = smaller(block, s->O - b * block), width = out_size(s, s->W), height = out_size(s, s->H);
    for (int64_t image = tile->image; image < tile->image + tile->images; image++)
        for (int64_t y = tile->from - 1; y <= tile->to; y++, room += width_of(s)) {
            if (y < 0 || y >= height || n < block) memset(room, 0, sizeof(float) * width_of(s));
            if (y < 0 || y >= height) continue;
            const float *from = g + (image * height + y) * width * s->O + b * block;
            memset(room, 0, sizeof(float) * block), memset(room + (width + 1) * block, 0, sizeof(float) * block);
            if (n == block)
                spike_take_row(from, s->O, width, wide_of(s), room + block);
            else
                for (int64_t x = 0; x < width; x++)
                    for (int64_t o = 0; o < n; o++) room[(x + 1) * block + o] = from[x * s->O + o];
        }
}

/* counts: of the tile's first pixel, or NULL. */
static void gather_tile(const struct geometry *s, const struct order *order, const uint64_t *turned, const uint8_t *counts,
                        const float *g, float *sums) {
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
            float *of = sums + all[k].at + c * reached * block_of(s);
            spike_gather(&channel, of, all[k].rows.count, all[k].cols.count, wide_of(s));
        }
    }
}

/* The gradient of block b in the caller's order, from the sum of `count` parts, which lie `apart` floats from each other. */
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

/* The gradient of the weights, written by `weight_step`, from spikes and the gradient g [N][H'][W'][O] of the output.
 * Returns 0, or 1 where there is no memory. */
EXPORT int64_t isospike_spike_conv_weight(const struct geometry *s, const struct spikes *spikes, const float *g, float *d_weight,
                               const int64_t *weight_step, int64_t threads) {
    int64_t blocks = blocks_of(s), of_block = weights_of_block(s);
    struct tiling tiling = tiling_of(s, GRADIENT_TILE, s->N);
    struct orders orders = orders_of(s, &tiling);
    if (blocks * of_block == 0) return 0;
    int64_t parts = smaller(larger(PARTIAL_SUMS / (4 * blocks * of_block), 1), larger(smaller(MOST_PARTS, tiling.count), 1));
    int64_t tile_words = s->C * order_room(s, &tiling) / WORD, room_size = tiling.images * (tiling.rows + 2) * width_of(s);
    struct weights w = {d_weight, weight_step};
    float *sums = calloc(parts * blocks * of_block, sizeof(float));
    uint64_t *turned = malloc((tiling.count * tile_words + 1) * sizeof(uint64_t));
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
