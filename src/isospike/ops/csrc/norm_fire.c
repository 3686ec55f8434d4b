/* What stands between two convolutions in one pass: batch norm, sum with a skip, fire.
 *
 * All tensors are float32, channels last: [T][R][C], R pixels of C channels at every time step; N = R * C. A step of the
 * current is `u = a[c] * x + b[c] (+ skip)`, computed in a block that stays in the cache and fired there. The backward keeps
 * x (and u, where there is a skip) and computes the rest anew. Sums run over fixed chunks of blocks, in double between them,
 * so their bits do not depend on the number of threads. Arrays of one value per channel are laid out over a block once per
 * chunk, so that every loop runs over contiguous memory whatever C is.
 */
#include <string.h>

#include "recurrence.h"

#define FUSED_BLOCK 256 /* elements; small, because the backward holds some 4 T arrays of them in the innermost cache */
#define CHUNKS 64 /* at most; more than the threads of most machines, and few enough to sum quickly */

/* How N elements are cut: `block` is a multiple of C, `chunk` one of `block`. */
struct cut {
    int64_t block, chunk, chunks;
};

static struct cut cut_of(int64_t N, int64_t C) {
    struct cut cut;
    cut.block = C * (C < FUSED_BLOCK ? FUSED_BLOCK / C : 1);
    int64_t blocks = (N + cut.block - 1) / cut.block;
    cut.chunk = cut.block * ((blocks + CHUNKS - 1) / CHUNKS);
    cut.chunks = (N + cut.chunk - 1) / cut.chunk;
    return cut;
}

int64_t isospike_chunks(int64_t N, int64_t C) { return cut_of(N, C).chunks; }

/* Vectors that straddle two lines of the cache cost twice. NULL where there is no memory. */
static float *room_of(int64_t floats) { return aligned_alloc(64, (sizeof(float) * floats + 63) / 64 * 64); }

INLINE void tile(const float *channels, int64_t C, int64_t block, float *over_block) {
    for (int64_t i = 0; i < block; i += C) memcpy(over_block + i, channels, sizeof(float) * C);
}

INLINE void sum_channels(const float *over_block, int64_t C, int64_t block, double *sums) {
    for (int64_t i = 0; i < block; i++) sums[i % C] += (double)over_block[i];
}

/* Statistics ------------------------------------------------------------------------------------------------------------ */

/* Adds up x - shift and its square over [start, stop), where start is a multiple of C. */
ALL_MACHINES
void sum_block(int64_t start, int64_t stop, int64_t block, const float *x, const float *restrict shift, float *restrict first,
               float *restrict second) {
    for (int64_t from = start; from < stop; from += block) {
        const float *restrict part = x + from;
        int n = (int)(stop - from < block ? stop - from : block);
        for (int i = 0; i < n; i++) {
            float d = part[i] - shift[i];
            first[i] += d;
            second[i] += d * d;
        }
    }
}

/* mean and biased variance [C] of x [N], N = rows * C, taken around its first row, which keeps large means from cancelling.
 * sums [chunks][2][C]: 0 on entry. Returns 0, or 1 where there is no memory. */
int isospike_norm_statistics(int64_t N, int64_t C, const float *x, double *sums, float *mean, float *var, int64_t threads) {
    struct cut cut = cut_of(N, C);
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *room = room_of(3 * cut.block);
        failed = room == NULL;
        if (room) tile(x, C, cut.block, room);
#pragma omp for schedule(static)
        for (int64_t k = 0; k < cut.chunks; k++) {
            if (!room) continue;
            int64_t start = k * cut.chunk, stop = start + cut.chunk < N ? start + cut.chunk : N;
            float *first = room + cut.block, *second = first + cut.block;
            memset(first, 0, sizeof(float) * 2 * cut.block);
            sum_block(start, stop, cut.block, x, room, first, second);
            sum_channels(first, C, cut.block, sums + 2 * k * C);
            sum_channels(second, C, cut.block, sums + (2 * k + 1) * C);
        }
        free(room);
    }
    double count = (double)(N / C);
    for (int64_t c = 0; c < C && !failed; c++) {
        double first = 0, second = 0;
        for (int64_t k = 0; k < cut.chunks; k++) first += sums[2 * k * C + c], second += sums[(2 * k + 1) * C + c];
        double d = first / count, v = second / count - d * d;
        mean[c] = (float)(x[c] + d);
        var[c] = (float)(v > 0 ? v : 0);
    }
    return failed > 0;
}

/* Forward --------------------------------------------------------------------------------------------------------------- */

/* What goes in and comes out; NULL where there is none. rule NULL: nothing fires. */
struct forward {
    const struct rule *rule;
    int64_t T, N, C, skip_step;                  /* skip_step: from one step of the skip to the next, 0 where it stays */
    const float *x, *a, *b, *skip, *added;       /* added [T][N]: joins the spikes */
    float *u, *s;
};

ALL_MACHINES
void current_block(const struct forward *f, int n, int64_t start, const float *restrict a, const float *restrict b, float *u,
                   int64_t u_step) {
    for (int64_t t = 0; t < f->T; t++) {
        const float *restrict x = f->x + t * f->N + start;
        float *restrict to = u + t * u_step;
        if (f->skip) {
            const float *restrict skip = f->skip + t * f->skip_step + start;
            for (int i = 0; i < n; i++) to[i] = (x[i] * a[i] + b[i]) + skip[i];
        } else {
            for (int i = 0; i < n; i++) to[i] = x[i] * a[i] + b[i];
        }
    }
}

ALL_MACHINES
void fire_block(const struct forward *f, int n, int64_t start, const float *u, int64_t u_step, float *v) {
    const struct rule *r = f->rule;
    int T = (int)f->T;
    float *s = f->s + start;
    for (int64_t t = 0; f->added && t < f->T; t++) memcpy(s + t * f->N, f->added + t * f->N + start, sizeof(float) * n);
    for (int k = 0; k < r->levels; k++) {
        memset(v, 0, sizeof(float) * n);
        if (k > 0 || f->added)
            WITH_FLAGS(forward_level(q, r->thresholds[k], T, n, u, u_step, v, s, f->N, 1));
        else
            WITH_FLAGS(forward_level(q, r->thresholds[k], T, n, u, u_step, v, s, f->N, 0));
    }
}

/* From rest. Returns 0, or 1 where there is no memory. */
int isospike_norm_fire_forward(const struct forward *f, int64_t threads) {
    struct cut cut = cut_of(f->N, f->C);
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *room = room_of(cut.block * (f->T + 3));
        failed = room == NULL;
        float *a = room, *b = a + cut.block, *v = b + cut.block, *scratch = v + cut.block;
        if (room) tile(f->a, f->C, cut.block, a), tile(f->b, f->C, cut.block, b);
#pragma omp for schedule(static)
        for (int64_t start = 0; start < f->N; start += cut.block) {
            if (!room) continue;
            int n = (int)(f->N - start < cut.block ? f->N - start : cut.block);
            float *u = f->u ? f->u + start : scratch;
            int64_t u_step = f->u ? f->N : cut.block;
            current_block(f, n, start, a, b, u, u_step);
            if (f->rule) fire_block(f, n, start, u, u_step, v);
        }
        free(room);
    }
    return failed > 0;
}

/* Backward -------------------------------------------------------------------------------------------------------------- */

/* ds, du [T][N]: gradients of spikes and of u, NULL for 0. With a skip the forward's u is handed in; without, it is computed
 * anew from x. g [T][N]: room for the gradient of a * x + b and of the skip, NULL where ds is: it is du then. sums
 * [chunks][2][C], 0 on entry: those of g and of g * xhat, where xhat = (x - mean) * rstd; coefficients [chunks][2], 0 on entry:
 * gradients of decay and gain, or NULL. */
struct backward {
    const struct rule *rule;
    int64_t T, N, C;
    const float *x, *a, *b, *mean, *rstd, *u, *ds, *du;
    float *g;
    double *sums, *coefficients;
};

/* Room of one thread: five arrays over a block, then potentials. */
struct room {
    float *a, *b, *mean, *rstd, *first, *second, *dv, *current, *h, *v;
};

static float *split(struct room *room, int64_t block, int64_t T) {
    float *all = room_of(block * (8 + 3 * T)), *at = all;
    float **parts[] = {&room->a, &room->b, &room->mean, &room->rstd, &room->first, &room->second, &room->dv};
    if (!all) return NULL;
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++, at += block) *parts[i] = at;
    room->current = at, room->h = at + T * block, room->v = at + 2 * T * block;
    return all;
}

ALL_MACHINES
void recompute_block(const struct backward *w, int n, int64_t start, int64_t block, const struct room *m) {
    const float *restrict a = m->a, *restrict b = m->b;
    for (int64_t t = 0; t < w->T; t++) {
        const float *restrict x = w->x + t * w->N + start;
        float *restrict to = m->current + t * block;
        for (int i = 0; i < n; i++) to[i] = x[i] * a[i] + b[i];
    }
}

ALL_MACHINES
void fire_backward_block(const struct backward *w, int n, int64_t start, int64_t block, const struct room *m,
                         double *coefficients) {
    const struct rule *r = w->rule;
    const float *u = w->u ? w->u + start : m->current, *ds = w->ds + start;
    int64_t u_step = w->u ? w->N : block;
    float *g = w->g + start;
    int T = (int)w->T;
    for (int k = 0; k < r->levels; k++) {
        memset(m->v, 0, sizeof(float) * n);
        memset(m->dv, 0, sizeof(float) * n);
        WITH_FLAGS(backward_level(q, r->thresholds[k], T, n, u, u_step, m->h, m->v, ds, w->N, m->dv, g, k > 0, block,
                                  coefficients));
    }
}

/* g += du where something fired; then the sums. */
ALL_MACHINES
void sum_gradient_block(const struct backward *w, int n, int64_t start, const struct room *m) {
    const float *restrict mean = m->mean, *restrict rstd = m->rstd;
    float *restrict first = m->first, *restrict second = m->second;
    for (int64_t t = 0; t < w->T; t++) {
        const float *restrict x = w->x + t * w->N + start, *du = w->du + t * w->N + start, *g = du;
        if (w->ds) {
            float *restrict total = w->g + t * w->N + start;
            if (w->du)
                for (int i = 0; i < n; i++) total[i] += du[i];
            g = total;
        }
        for (int i = 0; i < n; i++) {
            first[i] += g[i];
            second[i] += g[i] * ((x[i] - mean[i]) * rstd[i]);
        }
    }
}

/* Returns 0, or 1 where there is no memory. */
int isospike_norm_fire_backward(const struct backward *w, int64_t threads) {
    struct cut cut = cut_of(w->N, w->C);
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        struct room m;
        float *all = split(&m, cut.block, w->T);
        failed = all == NULL;
        if (all) {
            tile(w->a, w->C, cut.block, m.a), tile(w->b, w->C, cut.block, m.b);
            tile(w->mean, w->C, cut.block, m.mean), tile(w->rstd, w->C, cut.block, m.rstd);
        }
#pragma omp for schedule(static)
        for (int64_t k = 0; k < cut.chunks; k++) {
            if (!all) continue;
            memset(m.first, 0, sizeof(float) * 2 * cut.block);
            int64_t stop = (k + 1) * cut.chunk < w->N ? (k + 1) * cut.chunk : w->N;
            for (int64_t start = k * cut.chunk; start < stop; start += cut.block) {
                int n = (int)(stop - start < cut.block ? stop - start : cut.block);
                if (w->ds) {
                    if (!w->u) recompute_block(w, n, start, cut.block, &m);
                    fire_backward_block(w, n, start, cut.block, &m, w->coefficients ? w->coefficients + 2 * k : NULL);
                }
                sum_gradient_block(w, n, start, &m);
            }
            sum_channels(m.first, w->C, cut.block, w->sums + 2 * k * w->C);
            sum_channels(m.second, w->C, cut.block, w->sums + (2 * k + 1) * w->C);
        }
        free(all);
    }
    return failed > 0;
}

/* dx = a * (g - share - (x - mean) * tilt), share and tilt [C] being what batch statistics take back; dx may be g. */
ALL_MACHINES
void input_gradient_block(int n, const float *x, const float *g, const float *restrict a, const float *restrict share,
                          const float *restrict mean, const float *restrict tilt, float *dx) {
#pragma omp simd
    for (int i = 0; i < n; i++) dx[i] = a[i] * (g[i] - share[i] - (x[i] - mean[i]) * tilt[i]);
}

/* Returns 0, or 1 where there is no memory. */
int isospike_norm_input_gradient(int64_t N, int64_t C, const float *x, const float *g, const float *a, const float *share,
                                 const float *mean, const float *tilt, float *dx, int64_t threads) {
    struct cut cut = cut_of(N, C);
    const float *channels[] = {a, share, mean, tilt};
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *room = room_of(4 * cut.block);
        failed = room == NULL;
        for (int i = 0; room && i < 4; i++) tile(channels[i], C, cut.block, room + i * cut.block);
#pragma omp for schedule(static)
        for (int64_t start = 0; start < N; start += cut.block) {
            if (!room) continue;
            int n = (int)(N - start < cut.block ? N - start : cut.block);
            input_gradient_block(n, x + start, g + start, room, room + cut.block, room + 2 * cut.block,
                                 room + 3 * cut.block, dx + start);
        }
        free(room);
    }
    return failed > 0;
}
