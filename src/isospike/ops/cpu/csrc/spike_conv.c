/* Convolutions of spikes, forward: see spike_conv.h. */
#include "spike_conv.h"

SIZE_OF(geometry);
SIZE_OF(spikes);

#define OUTPUT_TILE (128 << 10) /* bytes, of which three rows are in use at a time */

/* The weights of block b. Channels that fill up the last one go nowhere, and are 0 only because numbers left over may be slow. A
 * few input channels at a time keep both sides in cache. */
INLINE void pack_block(const struct geometry *s, const struct weights *w, int64_t b, void *to, int integer) {
    int64_t block = block_of(s), n = smaller(block, s->O - b * block), each = s->table ? 16 : 1, together = s->table ? 4 : 1;
    struct tap taps[9];
    int count = taps_of(s, taps);
    if (n < block || s->table || integer) memset(to, 0, s->cell * weights_of_block(s));
    for (const struct tap *tap = taps; tap < taps + count; tap++)
        for (int64_t c0 = 0; c0 < s->C; c0 += 8)
            for (int64_t o = 0; o < n; o++) {
                const float *from = w->data + (b * block + o) * w->step[0] + tap->y * w->step[2] + tap->x * w->step[3];
                for (int64_t c = c0; c < c0 + 8; c++) {
                    float weight = from[c * w->step[1]];
                    for (int64_t i = 0; i < each; i++) {
                        int64_t at = tap->at + (c / together * each + i) * tap->apart + o;
                        if (s->table && !(i >> c % 4 & 1)) continue;
                        if (integer) ((int16_t *)to)[at] = (int16_t)(((int16_t *)to)[at] + (int16_t)weight);
                        else ((float *)to)[at] = s->table ? ((float *)to)[at] + weight : weight;
                    }
                }
            }
}

/* What a tile's spikes of channels `from` to `stop` reach, in `room` [images][rows + 2 halo][width + 2][block]; the edge is thrown
 * away. `from` is a multiple of 8. */
static void scatter_tile(const struct geometry *s, const struct tile *tile, int64_t halo, const struct spikes *spikes,
                         const char *w, int64_t from, int64_t stop, char *room) {
    int64_t stride = s->stride, block = block_of(s), width = width_of(s), rows = tile->to - tile->from + 2 * halo;
    int64_t first = larger(0, stride * tile->from - s->kernel / 2);
    int64_t last = smaller(s->H, stride * (tile->to - 1) + s->kernel / 2 + 1);
    struct parity all[4];
    int count = parities_of(s, all);
    for (int64_t c = from; c < stop; c += WORD) {
        int64_t channels = smaller(WORD, stop - c);
        uint64_t mask = channels == WORD ? ~(uint64_t)0 : ((uint64_t)1 << channels) - 1;
        for (int64_t image = 0; image < tile->images; image++)
            for (int64_t y = first; y < last; y++)
                for (int k = 0; k < count; k++) {
                    const struct parity *p = &all[k];
                    int reached = p->rows.count * p->cols.count;
                    if (y % stride != p->py) continue;
                    int64_t at = (((tile->image + image) * s->H + y) * s->W + p->px) * s->C + c;
                    int64_t reaches = (image * rows + y / stride + p->rows.first - tile->from + halo) * width;
                    struct row row = {
                        .fired = spikes->fired + at / 8,
                        .counts = spikes->counts ? spikes->counts + at : NULL,
                        .apart = stride * s->C,
                        .pixels = over(s->W - p->px, stride),
                        .to_step = width,
                        .fours = channels / 4,
                        .mask = mask,
                        .w = w + (p->at + rows_of(s) / s->C * c * reached * block) * s->cell,
                        .to = room + (reaches + (p->cols.first + 1) * block) * s->cell,
                    };
                    spike_scatter(s, &row, p->rows.count, p->cols.count);
                }
    }
}

/* Sums of a tile out: scale and bias of its block. */
static void put_tile(const struct geometry *s, const struct tile *tile, int64_t halo, const char *room, const int32_t *wide, int64_t b,
                     const float *scale, const float *bias, int onto, float *out) {
    int64_t block = block_of(s), width = out_size(s, s->W), height = out_size(s, s->H);
    int64_t rows = tile->to - tile->from;
    for (int64_t image = 0; image < tile->images; image++)
        for (int64_t y = 0; y < rows; y++) {
            int64_t at = ((image * (rows + 2 * halo) + y + halo) * (width + 2) + 1) * block;
            struct put put = {
                .from = room + at * s->cell,
                .wide = wide ? wide + at : NULL,
                .scale = scale,
                .bias = bias,
                .out = out + ((tile->image + image) * height + tile->from + y) * width * s->O + b * block,
                .block = block,
                .O = s->O,
                .filters = (int)smaller(block, s->O - b * block),
                .integer = is_integer(s),
                .onto = onto,
            };
            spike_put_row(&put, width);
        }
}

/* Bytes of packed weights: those of every block, then its scales, then its biases. */
static int64_t bytes_of_block(const struct geometry *s) { return s->cell * weights_of_block(s); }
EXPORT int64_t isospike_spike_conv_room(const struct geometry *s) {
    return blocks_of(s) * (bytes_of_block(s) + 2 * block_of(s) * (int64_t)sizeof(float));
}

/* packed [isospike_spike_conv_room()], of weights by four strides, integers where the geometry says so; `scale` [O], NULL for 1, is
 * what the sums are multiplied by, and `bias` [O], NULL for 0, what is then added. */
EXPORT void isospike_spike_conv_pack(const struct geometry *s, const float *weight, const int64_t *weight_step, const float *scale,
                              const float *bias, char *packed, int64_t threads) {
    int64_t blocks = blocks_of(s), block = block_of(s), of_block = bytes_of_block(s);
    struct weights w = {(float *)weight, weight_step};
    float *scales = (float *)(packed + blocks * of_block), *biases = scales + blocks * block;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < blocks; b++) {
        if (is_integer(s))
            pack_block(s, &w, b, packed + b * of_block, 1);
        else
            pack_block(s, &w, b, packed + b * of_block, 0);
        for (int64_t o = b * block; o < (b + 1) * block; o++) {
            scales[o] = scale && o < s->O ? scale[o] : 1;
            biases[o] = bias && o < s->O ? bias[o] : 0;
        }
    }
}

/* out [N][H'][W'][O]; the sum is added to what is there where `onto` is set. `ends` [groups]: the channel behind each group of
 * those whose sums of integers fit 16 bits together, multiples of 8, the last one C. Returns 0, or 1 where there is no memory. */
EXPORT int64_t isospike_spike_conv(const struct geometry *s, const struct spikes *spikes, const char *packed, const int64_t *ends,
                        int64_t groups, float *out, int64_t onto, int64_t threads) {
    if (s->N == 0 || s->H == 0 || s->W == 0 || s->O == 0) return 0;
    int64_t blocks = blocks_of(s), block = block_of(s), of_block = bytes_of_block(s);
    struct tiling tiling = tiling_of(s, OUTPUT_TILE, over(s->N * blocks, 4 * threads));
    int64_t halo = tiling.bands > 1 ? 2 : 1, sums = tiling.images * (tiling.rows + 2 * halo) * width_of(s);
    const float *scales = (const float *)(packed + blocks * of_block), *biases = scales + blocks * block;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        char *room = (char *)room_of(over(sums * s->cell, (int64_t)sizeof(float)));
        int32_t *wide = groups > 1 ? (int32_t *)room_of(sums) : NULL;
        failed = room == NULL || (groups > 1 && wide == NULL);
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t k = 0; k < tiling.count; k++) {
                if (failed) continue;
                struct tile tile = tile_at(s, &tiling, k);
                memset(room, 0, s->cell * sums);
                if (wide) memset(wide, 0, sizeof(*wide) * sums);
                for (int64_t g = 0; g < groups; g++) {
                    if (g) spike_widen((int16_t *)room, wide, sums);
                    scatter_tile(s, &tile, halo, spikes, packed + b * of_block, g ? ends[g - 1] : 0, ends[g], room);
                }
                put_tile(s, &tile, halo, room, wide, b, scales + b * block, biases + b * block, (int)onto, out);
            }
        free(room), free(wide);
    }
    return failed > 0;
}
