/* The inner loops of spike_conv.c for one kind of NUMBER, in vectors of BYTES: included by spike_lanes.c once for each. */

typedef NUMBER NAMED(vector) __attribute__((vector_size(BYTES), aligned(sizeof(NUMBER)), may_alias));
#define IN_VECTOR (BYTES / (int)sizeof(NUMBER))
#define PLACE(p) (*(NAMED(vector) *)(p))

/* A row of pixels: each adds the weights w [C][rows][cols][wide vectors] of the channels that fired, times their counts where there
 * are any, to rows x cols places of `to`. Of three columns, the next pixel reaches two again: these stay in registers. */
INLINE void NAMED(scatter)(const struct row *row, int rows, int cols, int wide, int counted) {
    NAMED(vector) sum[3][3][4];
    const int block = wide * IN_VECTOR, kept = cols == 3 ? 2 : 0;
    const int64_t step = row->to_step;
    const uint8_t *fired = row->fired, *counts = counted ? row->counts : NULL;
    const NUMBER *w = row->w;
    NUMBER *to = row->to;
    EACH(rows, kept, wide) sum[i][j][v] = PLACE(to + i * step + j * block + v * IN_VECTOR);
    for (int64_t x = 0; x < row->pixels; x++, fired += row->apart / 8, to += block, counts += counted ? row->apart : 0) {
        uint64_t bits;
        memcpy(&bits, fired, sizeof(bits));
        bits &= row->mask;
        if (!kept && !bits) continue;
        EACH(rows, cols - kept, wide) sum[i][j + kept][v] = PLACE(to + i * step + (j + kept) * block + v * IN_VECTOR);
        for (; bits; bits &= bits - 1) {
            int c = __builtin_ctzll(bits);
            const NUMBER *of = w + c * (rows * cols * block), count = counted ? counts[c] : 1;
            EACH(rows, cols, wide) sum[i][j][v] += PLACE(of + (i * cols + j) * block + v * IN_VECTOR) * count;
        }
        EACH(rows, cols - kept, wide) PLACE(to + i * step + j * block + v * IN_VECTOR) = sum[i][j][v];
        EACH(rows, kept, wide) sum[i][j][v] = sum[i][j + 1][v];
    }
    EACH(rows, kept, wide) PLACE(to + i * step + j * block + v * IN_VECTOR) = sum[i][j][v];
}

/* The same of spikes, by a table [channels / 4][16][rows][cols][wide vectors] of what any four channels add together: no branch
 * waits for what fired. */
INLINE void NAMED(look_up)(const struct row *row, int rows, int cols, int wide) {
    NAMED(vector) sum[3][3][4];
    const int block = wide * IN_VECTOR;
    const int64_t step = row->to_step, all = rows * cols * block;
    const uint8_t *fired = row->fired;
    NUMBER *to = row->to;
    EACH(rows, cols - 1, wide) sum[i][j][v] = PLACE(to + i * step + j * block + v * IN_VECTOR);
    for (int64_t x = 0; x < row->pixels; x++, fired += row->apart / 8, to += block) {
        uint64_t bits;
        memcpy(&bits, fired, sizeof(bits));
        bits &= row->mask;
        EACH(rows, 1, wide) sum[i][cols - 1][v] = PLACE(to + i * step + (cols - 1) * block + v * IN_VECTOR);
        const NUMBER *w = row->w;
        for (int64_t four = 0; four < row->fours; four++, bits >>= 4, w += 16 * all) {
            const NUMBER *of = w + (bits & 15) * all;
            EACH(rows, cols, wide) sum[i][j][v] += PLACE(of + (i * cols + j) * block + v * IN_VECTOR);
        }
        EACH(rows, 1, wide) PLACE(to + i * step + v * IN_VECTOR) = sum[i][0][v];
        EACH(rows, cols - 1, wide) sum[i][j][v] = sum[i][j + 1][v];
    }
    EACH(rows, cols - 1, wide) PLACE(to + i * step + j * block + v * IN_VECTOR) = sum[i][j][v];
}

#undef IN_VECTOR
#undef PLACE
