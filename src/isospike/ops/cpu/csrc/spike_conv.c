/* Convolutions of spikes, forward: see spike_conv.h. */
#include "spike_conv.h"

SIZE_OF(geometry);
SIZE_OF(spikes);

#define OUTPUT_TILE (128 << 10) /* bytes, of which three rows are in use at a time */

/* The weights of block b. Channels that fill up the last one go nowhere, and are 0 only because numbers left over may be slow. A
 * few input channels at a time keep both sides in cache. */
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

/* What a tile's spikes reach, in `room` [images][rows + 2 halo][width + 2][block]; the edge is thrown away. */
static void scatter_tile(const struct geometry *s, const struct tile *tile, int64_t halo, const struct spikes *spikes,
                         const float *w, float *room) {
    int64_t stride = s->stride, block = block_of(s), width = width_of(s), rows = tile->to - tile->from + 2 * halo;
    int64_t first = larger(0, stride * tile->from - s->kernel / 2);
    int64_t last = smaller(s->H, stride * (tile->to - 1) + s->kernel / 2 + 1);
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
                    if (y % stride != p->py) continue;
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
                    };
                    spike_scatter(&row, p->rows.count, p->cols.count, wide_of(s));
                }
    }
}

/* `bias` of the whole block. */
static void put_tile(const struct geometry *s, const struct tile *tile, int64_t halo, const float *room, int64_t b,
                     const float *bias, int onto, float *out) {
    int64_t block = block_of(s), n = smaller(block, s->O - b * block), width = out_size(s, s->W), height = out_size(s, s->H);
    int64_t rows = tile->to - tile->from;
    for (int64_t image = 0; image < tile->images; image++)
        for (int64_t y = 0; y < rows; y++) {
            const float *from = room + ((image * (rows + 2 * halo) + y + halo) * (width + 2) + 1) * block;
            float *to = out + ((tile->image + image) * height + tile->from + y) * width * s->O + b * block;
            if (n == block)
                spike_put_row(from, bias, onto, s->O, width, wide_of(s), to);
            else
                for (int64_t x = 0; x < width; x++)
                    for (int64_t o = 0; o < n; o++) {
                        float sum = from[x * block + o] + bias[o];
                        to[x * s->O + o] = onto ? to[x * s->O + o] + sum : sum;
                    }
        }
}

/* Floats of packed weights: those of every block, then its biases. */
EXPORT int64_t isospike_spike_conv_room(const struct geometry *s) { return blocks_of(s) * (weights_of_block(s) + block_of(s)); }

/* packed [isospike_spike_conv_room()], of weights by four strides and `bias` [O] or NULL. */
EXPORT void isospike_spike_conv_pack(const struct geometry *s, const float *weight, const int64_t *weight_step, const float *bias,
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
EXPORT int64_t isospike_spike_conv(const struct geometry *s, const struct spikes *spikes, const float *packed, float *out, int64_t onto,
                        int64_t threads) {
    if (s->N == 0 || s->H == 0 || s->W == 0 || s->O == 0) return 0;
    int64_t blocks = blocks_of(s), block = block_of(s), of_block = weights_of_block(s);
    struct tiling tiling = tiling_of(s, OUTPUT_TILE, over(s->N * blocks, 4 * threads));
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
                memset(room, 0, sizeof(float) * room_size);
                scatter_tile(s, &tile, halo, spikes, packed + b * of_block, room);
                put_tile(s, &tile, halo, room, b, biases + b * block, (int)onto, out);
            }
        free(room);
    }
    return failed > 0;
}
