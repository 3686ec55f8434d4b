/* The inner loops of spike_conv.c and spike_conv_weight.c, in vectors. */
#include "spike_conv.h"
#include "vectors.h"

#define EACH(rows, cols, wide)                                 \
    _Pragma("GCC unroll 3") for (int i = 0; i < rows; i++)     \
        _Pragma("GCC unroll 3") for (int j = 0; j < cols; j++) \
            _Pragma("GCC unroll 4") for (int v = 0; v < wide; v++)

#define NUMBER float
#define BYTES VECTOR
#define NAMED(name) name##_float
#include "spike_scatter.h"
#undef NUMBER
#undef BYTES
#undef NAMED
#define NUMBER int16_t
#define BYTES VECTOR
#define NAMED(name) name##_integer
#include "spike_scatter.h"
#undef BYTES
#undef NAMED
#define BYTES (VECTOR / 2)
#define NAMED(name) name##_half
#include "spike_scatter.h"

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

typedef int16_t shorts __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef int32_t longs __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* A row out of a tile: whole vectors of filters, then one by one those that are left. */
INLINE void put_row(const struct put *put, int64_t pixels, int filters, int integer, int wide, int onto) {
    const float *floats = put->from;
    const int16_t *integers = put->from;
    const int whole = filters / LANES * LANES;
    float *out = put->out;
    for (int64_t at = 0; at < pixels * put->block; at += put->block, out += put->O) {
        for (int o = 0; o < whole; o += LANES) {
            vector sum;
            if (integer) {
                longs exact = __builtin_convertvector(*(const shorts *)(integers + at + o), longs);
                if (wide) exact += *(const longs *)(put->wide + at + o);
                sum = __builtin_convertvector(exact, vector);
            } else
                sum = AT(floats + at + o);
            vector value = sum * AT(put->scale + o) + AT(put->bias + o);
            if (onto) value += AT(out + o);
            AT(out + o) = value;
        }
        for (int o = whole; o < filters; o++) {
            float sum = integer ? (float)(integers[at + o] + (wide ? put->wide[at + o] : 0)) : floats[at + o];
            float value = sum * put->scale[o] + put->bias[o];
            out[o] = onto ? out[o] + value : value;
        }
    }
}

void spike_put_row(const struct put *put, int64_t pixels) {
#define PUT(filters, integer, wide)                                     \
    do {                                                                \
        if (put->onto) put_row(put, pixels, filters, integer, wide, 1); \
        else put_row(put, pixels, filters, integer, wide, 0);           \
    } while (0)
    if (!put->integer && put->filters == LANES) PUT(LANES, 0, 0);
    else if (!put->integer && put->filters == 2 * LANES) PUT(2 * LANES, 0, 0);
    else if (!put->integer && put->filters == 4 * LANES) PUT(4 * LANES, 0, 0);
    else if (!put->integer) PUT(put->filters, 0, 0);
    else if (!put->wide && put->filters == 2 * LANES) PUT(2 * LANES, 1, 0);
    else if (!put->wide) PUT(put->filters, 1, 0);
    else PUT(put->filters, 1, 1);
}

/* What has been added up in 16 bits moves on to 32, and begins anew. */
void spike_widen(int16_t *restrict sums, int32_t *restrict wide, int64_t n) {
    for (int64_t i = 0; i < n; i++) wide[i] += sums[i];
    memset(sums, 0, sizeof(*sums) * n);
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

/* Vectors of integers hold twice as many, so that half of them make a block. */
void spike_scatter(const struct geometry *s, const struct row *row, int rows, int cols) {
    const int wide = s->kernel == 1 ? 4 : 1;
    if (!is_integer(s) && row->counts) WITH_SHAPE(rows, cols, wide, scatter_float(row, R, K, V, 1));
    else if (!is_integer(s) && s->table) WITH_SHAPE(rows, cols, wide, look_up_float(row, R, K, V));
    else if (!is_integer(s)) WITH_SHAPE(rows, cols, wide, scatter_float(row, R, K, V, 0));
    else if (is_half(s) && s->table) WITH_SHAPE(rows, cols, wide, look_up_half(row, R, K, (V + 1) / 2));
    else if (is_half(s)) WITH_SHAPE(rows, cols, wide, scatter_half(row, R, K, (V + 1) / 2, 0));
    else if (s->table) WITH_SHAPE(rows, cols, wide, look_up_integer(row, R, K, (V + 1) / 2));
    else WITH_SHAPE(rows, cols, wide, scatter_integer(row, R, K, (V + 1) / 2, 0));
}

void spike_gather(const struct channel *channel, float *sums, int rows, int cols, int wide) {
    if (channel->counts)
        WITH_SHAPE(rows, cols, wide, gather(channel, sums, R, K, V, 1));
    else
        WITH_SHAPE(rows, cols, wide, gather(channel, sums, R, K, V, 0));
}
