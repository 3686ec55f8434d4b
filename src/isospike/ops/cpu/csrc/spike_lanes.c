/* The inner loops of spike_conv.c and spike_conv_weight.c, in vectors. */
#include "spike_conv.h"

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define AT(p) (*(vector *)(p)) /* wherever it lies */
#define EACH(rows, cols, wide)                                 \
    _Pragma("GCC unroll 3") for (int i = 0; i < rows; i++)     \
        _Pragma("GCC unroll 3") for (int j = 0; j < cols; j++) \
            _Pragma("GCC unroll 4") for (int v = 0; v < wide; v++)

/* One pixel: adds the weights w [C][rows][cols][wide vectors] of the channels that fired, times their counts where there are
 * any, to rows x cols places of `to`. */
INLINE void scatter(uint64_t fired, const uint8_t *counts, const float *w, float *to, int64_t step, int rows, int cols, int wide) {
    vector sum[3][3][4];
    const int block = wide * LANES;
    EACH(rows, cols, wide) sum[i][j][v] = AT(to + i * step + j * block + v * LANES);
    for (; fired; fired &= fired - 1) {
        int c = __builtin_ctzll(fired);
        const float *of = w + c * (rows * cols * block);
        const float count = counts ? counts[c] : 1;
        EACH(rows, cols, wide) sum[i][j][v] += AT(of + (i * cols + j) * block + v * LANES) * count;
    }
    EACH(rows, cols, wide) AT(to + i * step + j * block + v * LANES) = sum[i][j][v];
}

INLINE void scatter_row(const struct row *row, int rows, int cols, int wide, int counted) {
    const uint8_t *fired = row->fired, *counts = counted ? row->counts : NULL;
    float *to = row->to;
    for (int64_t x = 0; x < row->pixels; x++, fired += row->apart / 8, to += wide * LANES) {
        uint64_t bits;
        memcpy(&bits, fired, sizeof(bits));
        bits &= row->mask;
        if (bits) scatter(bits, counts, row->w, to, row->to_step, rows, cols, wide);
        if (counted) counts += row->apart;
    }
}

/* One channel: adds to sums [rows][cols][wide vectors] the rows x cols places of g behind every pixel where it fired, times its
 * count. */
INLINE void gather(const struct channel *channel, float *sums, int rows, int cols, int wide, int counted) {
    vector sum[3][3][4];
    const int block = wide * LANES;
    const int64_t step = channel->g_step;
    EACH(rows, cols, wide) sum[i][j][v] = AT(sums + (i * cols + j) * block + v * LANES);
    for (int64_t word = 0; word < channel->words; word++)
        for (uint64_t fired = channel->fired[word]; fired; fired &= fired - 1) {
            int64_t at = WORD * word + __builtin_ctzll(fired);
            const float *g = channel->g + channel->place[at];
            const float count = counted ? channel->counts[channel->pixel[at] * channel->apart] : 1;
            EACH(rows, cols, wide) sum[i][j][v] += AT(g + i * step + j * block + v * LANES) * count;
        }
    EACH(rows, cols, wide) AT(sums + (i * cols + j) * block + v * LANES) = sum[i][j][v];
}

/* A row of one block of channels, `pixels` of O: into and out of a tile, whose pixels lie one behind the other. */
void spike_take_row(const float *g, int64_t O, int64_t pixels, int wide, float *to) {
    for (int64_t x = 0; x < pixels; x++, g += O, to += wide * LANES)
        for (int v = 0; v < wide; v++) AT(to + v * LANES) = AT(g + v * LANES);
}

void spike_put_row(const float *from, const float *bias, int onto, int64_t O, int64_t pixels, int wide, float *out) {
    for (int64_t x = 0; x < pixels; x++, from += wide * LANES, out += O)
        for (int v = 0; v < wide; v++) {
            vector sum = AT(from + v * LANES) + AT(bias + v * LANES);
            if (onto) sum += AT(out + v * LANES);
            AT(out + v * LANES) = sum;
        }
}

/* The shapes that there are: 3x3 at stride 1, 1x1, and 3x3 at stride 2, whose pixels reach one or two rows and columns. */
#define WITH_SHAPE(rows, cols, wide, CALL)                                       \
    do {                                                                         \
        if (rows == 3) { enum { R = 3, K = 3, V = 1 }; CALL; }                   \
        else if (wide == 4) { enum { R = 1, K = 1, V = 4 }; CALL; }              \
        else if (rows == 2 && cols == 2) { enum { R = 2, K = 2, V = 2 }; CALL; } \
        else if (rows == 2) { enum { R = 2, K = 1, V = 2 }; CALL; }              \
        else if (cols == 2) { enum { R = 1, K = 2, V = 2 }; CALL; }              \
        else { enum { R = 1, K = 1, V = 2 }; CALL; }                             \
    } while (0)

void spike_scatter(const struct row *row, int rows, int cols, int wide) {
    if (row->counts)
        WITH_SHAPE(rows, cols, wide, scatter_row(row, R, K, V, 1));
    else
        WITH_SHAPE(rows, cols, wide, scatter_row(row, R, K, V, 0));
}

void spike_gather(const struct channel *channel, float *sums, int rows, int cols, int wide) {
    if (channel->counts)
        WITH_SHAPE(rows, cols, wide, gather(channel, sums, R, K, V, 1));
    else
        WITH_SHAPE(rows, cols, wide, gather(channel, sums, R, K, V, 0));
}
