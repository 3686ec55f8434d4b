/* What stands between two convolutions in one pass: batch norm, sum with a skip, fire.
 *
 * All tensors are float32, channels last: [T][R][C], R pixels of C channels at every time step; N = R * C. A step of the
 * current is `u = a[c] * x + b[c] (+ skip)`, computed in a block that stays in the cache and fired there. The backward keeps
 * x (and u, where there is a skip) and computes the rest anew. Sums run over fixed chunks of blocks, in double between them,
 * so their bits do not depend on the number of threads. Arrays of one value per channel are laid out over a block once per
 * chunk, so that every loop runs over contiguous memory whatever C is.
 */
#include "bits.h"
#include "masks.h"

#define FUSED_BLOCK 512 /* elements; small, because the backward holds some 4 T arrays of them in the inner caches */
#define CHUNKS 64 /* at most; more than the threads of most machines, and few enough to sum quickly */

/* How N elements are cut: `block` is a multiple of C, `chunk` one of `block`. */
struct cut {
    int64_t block, chunk, chunks;
};

static struct cut cut_of(int64_t N, int64_t C) {
    struct cut cut = {.block = C > 0 && C < FUSED_BLOCK ? FUSED_BLOCK / C * C : C};
    if (N == 0) return cut;
    int64_t blocks = (N + cut.block - 1) / cut.block;
    cut.chunk = cut.block * ((blocks + CHUNKS - 1) / CHUNKS);
    cut.chunks = (N + cut.chunk - 1) / cut.chunk;
    return cut;
}

INLINE void tile(const float *channels, int64_t C, int64_t block, float *over_block) {
    for (int64_t i = 0; i < block; i += C) memcpy(over_block + i, channels, sizeof(float) * C);
}

INLINE void sum_channels(const float *over_block, int64_t C, int64_t block, double *sums) {
    for (int64_t i = 0; i < block; i += C)
        for (int64_t c = 0; c < C; c++) sums[c] += (double)over_block[i + c];
}

/* Of sums [chunks][2][C] those of all chunks, in totals [2][C]. */
static void sum_chunks(const double *sums, int64_t chunks, int64_t C, double *totals) {
    memset(totals, 0, sizeof(double) * 2 * C);
    for (int64_t k = 0; k < chunks; k++)
        for (int64_t i = 0; i < 2 * C; i++) totals[i] += sums[2 * k * C + i];
}

/* Statistics ------------------------------------------------------------------------------------------------------------ */

/* Adds up x - shift and its square over [start, stop), where start is a multiple of C. */
static void sum_block(int64_t start, int64_t stop, int64_t block, const float *x, const float *restrict shift, float *restrict first,
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

/* Of one norm, arrays of C each: mean and biased variance of its input; then 1 / (sqrt(var + eps) + root_eps), and the affine
 * y = a * x + b that it amounts to. */
struct norm {
    const float *weight, *bias;
    double eps, root_eps;
    float *mean, *var, *rstd, *a, *b;
};
SIZE_OF(norm);

static void settle(const struct norm *norm, int64_t C, double count, const float *around, const double *totals) {
    for (int64_t c = 0; c < C; c++) {
        double d = totals[c] / count, v = totals[C + c] / count - d * d;
        norm->mean[c] = (float)(around[c] + d);
        norm->var[c] = (float)(v < 0 ? 0 : v);
        norm->rstd[c] = 1 / (sqrtf(norm->var[c] + (float)norm->eps) + (float)norm->root_eps);
        norm->a[c] = norm->weight[c] * norm->rstd[c];
        norm->b[c] = norm->bias[c] - norm->mean[c] * norm->a[c];
    }
}

/* Fills `norm` from x [N], N = rows * C, summed around its first row, which keeps large means from cancelling; with NaN
 * where there is nothing. Returns 0, or 1 where there is no memory. */
static int take_statistics(const struct norm *norm, int64_t N, int64_t C, const float *x, int64_t threads) {
    for (int64_t c = 0; N == 0 && c < C; c++) norm->mean[c] = norm->var[c] = norm->rstd[c] = norm->a[c] = norm->b[c] = NAN;
    if (N == 0) return 0;
    struct cut cut = cut_of(N, C);
    double *sums = calloc(2 * C * (cut.chunks + 1), sizeof(double));
    int failed = sums == NULL;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *room = room_of(3 * cut.block);
        failed = room == NULL;
        if (room) tile(x, C, cut.block, room);
#pragma omp for schedule(static)
        for (int64_t k = 0; k < cut.chunks; k++) {
            if (!room || !sums) continue;
            int64_t start = k * cut.chunk, stop = start + cut.chunk < N ? start + cut.chunk : N;
            float *first = room + cut.block, *second = first + cut.block;
            memset(first, 0, sizeof(float) * 2 * cut.block);
            sum_block(start, stop, cut.block, x, room, first, second);
            sum_channels(first, C, cut.block, sums + 2 * k * C);
            sum_channels(second, C, cut.block, sums + (2 * k + 1) * C);
        }
        free(room);
    }
    if (!failed) {
        double *totals = sums + 2 * C * cut.chunks;
        sum_chunks(sums, cut.chunks, C, totals);
        settle(norm, C, (double)(N / C), x, totals);
    }
    free(sums);
    return failed > 0;
}

/* Forward --------------------------------------------------------------------------------------------------------------- */

/* What goes in and comes out; NULL where there is none. rule NULL: nothing fires. */
struct forward {
    const struct rule *rule;
    int64_t T, N, C, skip_step;      /* skip_step: from one step of the skip to the next, 0 where it stays */
    struct norm norm;
    const float *x, *skip, *added;   /* added [T][N]: joins the spikes */
    float *u, *s;
    uint8_t *bits;                   /* [T][N]: spikes of 0 and 1 in place of s; C is a multiple of 8 then */
    int64_t fired;                   /* how many of these are 1 */
    uint8_t *masks;                  /* [isospike_norm_fire_masks()] */
};
SIZE_OF(forward);

static void current_block(const struct forward *f, int n, int64_t start, const float *restrict a, const float *restrict b, float *u,
                   int64_t u_step) {
    for (int64_t t = 0; t < f->T; t++) {
        const float *restrict x = f->x + t * f->N + start;
        float *restrict to = u + t * u_step;
        fetch(x, n, n);
        if (f->s) fetch_to_write(f->s + t * f->N + start, n, n);
        if (f->skip_step) fetch(f->skip + t * f->skip_step + start, n, n);
        if (f->skip) {
            const float *restrict skip = f->skip + t * f->skip_step + start;
            for (int i = 0; i < n; i++) to[i] = (x[i] * a[i] + b[i]) + skip[i];
        } else {
            for (int i = 0; i < n; i++) to[i] = x[i] * a[i] + b[i];
        }
    }
}

/* Spikes go to `s`, their steps s_step apart. */
static void fire_block(const struct forward *f, int n, int64_t start, int64_t block, const float *u, int64_t u_step, float *v,
                       float *s, int64_t s_step) {
    const struct rule *r = f->rule;
    int T = (int)f->T;
    int64_t bits = bits_of(block), level = 2 * bits * T;
    uint8_t *masks = f->masks ? f->masks + start / block * r->levels * level : NULL;
    for (int64_t t = 0; f->added && t < f->T; t++) memcpy(s + t * s_step, f->added + t * f->N + start, sizeof(float) * n);
    for (int k = 0; k < r->levels; k++) {
        memset(v, 0, sizeof(float) * n);
        int add = k > 0 || f->added;
        if (masks && add)
            WITH_MASKS(forward_masked(q, r->thresholds[k], T, n, u, u_step, v, s, s_step, 1, bits, masks + k * level));
        else if (masks)
            WITH_MASKS(forward_masked(q, r->thresholds[k], T, n, u, u_step, v, s, s_step, 0, bits, masks));
        else if (add)
            WITH_FLAGS(forward_level(q, r->thresholds[k], T, n, u, u_step, v, s, s_step, 1));
        else
            WITH_FLAGS(forward_level(q, r->thresholds[k], T, n, u, u_step, v, s, s_step, 0));
    }
}

/* Bits of the spikes [T][block] of a block; returns how many fired. */
static int64_t pack_block(const struct forward *f, int n, int64_t start, int64_t block, const float *s) {
    int64_t fired = 0;
    for (int64_t t = 0; t < f->T; t++) {
        uint8_t *bits = f->bits + (t * f->N + start) / 8;
        pack_values(s + t * block, n, bits);
        for (int64_t at = 0; at < n / 8; at += 8) {
            uint64_t word = 0;
            memcpy(&word, bits + at, smaller(n / 8 - at, 8));
            fired += __builtin_popcountll(word);
        }
    }
    return fired;
}

/* Bytes of the masks of all neurons. */
EXPORT int64_t isospike_norm_fire_masks(const struct rule *r, int64_t T, int64_t N, int64_t C) {
    return masks_of(r, T, N, cut_of(N, C).block);
}

/* Fills `norm`, then u and s, from rest, or the bits of s, and the masks. Returns 0, or 1 where there is no memory. */
EXPORT int64_t isospike_norm_fire_forward(struct forward *f, int64_t threads) {
    if (f->C == 0) return 0;
    struct cut cut = cut_of(f->N, f->C);
    int failed = take_statistics(&f->norm, f->T * f->N, f->C, f->x, threads);
    int64_t fired = 0;
    if (failed) return 1;
#pragma omp parallel num_threads(threads) reduction(+ : failed, fired)
    {
        float *room = room_of(cut.block * (2 * f->T + 3));
        failed = room == NULL;
        if (room) tile(f->norm.a, f->C, cut.block, room), tile(f->norm.b, f->C, cut.block, room + cut.block);
#pragma omp for schedule(static)
        for (int64_t start = 0; start < f->N; start += cut.block) {
            if (!room) continue;
            int n = (int)(f->N - start < cut.block ? f->N - start : cut.block);
            float *a = room, *b = a + cut.block, *v = b + cut.block, *scratch = v + cut.block;
            float *u = f->u ? f->u + start : scratch, *s = f->s ? f->s + start : scratch + f->T * cut.block;
            int64_t u_step = f->u ? f->N : cut.block, s_step = f->s ? f->N : cut.block;
            current_block(f, n, start, a, b, u, u_step);
            if (f->rule) fire_block(f, n, start, cut.block, u, u_step, v, s, s_step);
            if (f->bits) fired += pack_block(f, n, start, cut.block, s);
        }
        free(room);
    }
    f->fired = fired;
    return failed > 0;
}

/* Backward -------------------------------------------------------------------------------------------------------------- */

/* d_s, d_u [T][N]: gradients of spikes and of u, NULL for 0. Without masks and with a skip the forward's u is handed in;
 * without both it is computed anew from x. g [T][N]: room for the gradient of a * x + b and of the skip, d_s itself where
 * there is one level and nobody needs d_s any more; NULL where d_s is: it is d_u then. d_bias, d_weight [C]: room for the sums of g and of g * xhat, where xhat = (x - mean) * rstd; coefficients [2]: room
 * for the gradients of decay and gain, or NULL. d_x [T][N]: room for the gradient of x; it may be g. */
struct backward {
    const struct rule *rule;
    int64_t T, N, C;
    struct norm norm;
    const float *x, *u, *d_s, *d_u;
    float *g, *d_x, *d_bias, *d_weight, *coefficients;
    const uint8_t *masks;
};
SIZE_OF(backward);

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

static void recompute_block(const struct backward *w, int n, int64_t start, int64_t block, const struct room *m) {
    const float *restrict a = m->a, *restrict b = m->b;
    for (int64_t t = 0; t < w->T; t++) {
        const float *restrict x = w->x + t * w->N + start;
        float *restrict to = m->current + t * block;
        for (int i = 0; i < n; i++) to[i] = x[i] * a[i] + b[i];
    }
}

static void fire_backward_block(const struct backward *w, int n, int64_t start, int64_t block, const struct room *m,
                         double *coefficients) {
    const struct rule *r = w->rule;
    const float *u = w->u ? w->u + start : m->current, *d_s = w->d_s + start;
    int64_t u_step = w->u ? w->N : block;
    float *g = w->g + start;
    int T = (int)w->T;
    for (int k = 0; k < r->levels; k++) {
        memset(m->v, 0, sizeof(float) * n);
        memset(m->dv, 0, sizeof(float) * n);
        WITH_FLAGS(backward_level(q, r->thresholds[k], T, n, u, u_step, m->h, m->v, d_s, w->N, m->dv, g, w->N, k > 0, block,
                                  coefficients));
    }
}

static void pass_masks_block(const struct backward *w, int n, int64_t start, int64_t block, const struct room *m) {
    const struct rule *r = w->rule;
    int T = (int)w->T;
    const float *d_s = w->d_s + start;
    float *g = w->g + start;
    for (int64_t t = 0; t < T; t++) fetch(d_s + t * w->N, n, n), fetch_to_write(g + t * w->N, n, n);
    int64_t bits = bits_of(block), level = 2 * bits * T;
    const uint8_t *masks = w->masks + start / block * r->levels * level;
    for (int k = 0; k < r->levels; k++) {
        memset(m->dv, 0, sizeof(float) * n);
        if (k)
            WITH_MASKS(backward_masked(q, T, n, d_s, w->N, m->dv, g, 1, bits, masks + k * level));
        else
            WITH_MASKS(backward_masked(q, T, n, d_s, w->N, m->dv, g, 0, bits, masks));
    }
}

/* g += d_u where something fired; then the sums. */
static void sum_gradient_block(const struct backward *w, int n, int64_t start, const struct room *m) {
    const float *restrict mean = m->mean, *restrict rstd = m->rstd;
    float *restrict first = m->first, *restrict second = m->second;
    for (int64_t t = 0; t < w->T; t++) {
        const float *restrict x = w->x + t * w->N + start, *d_u = w->d_u ? w->d_u + t * w->N + start : NULL, *g = d_u;
        fetch(x, n, n);
        if (d_u) fetch(d_u, n, n);
        if (w->d_s) {
            float *restrict total = w->g + t * w->N + start;
            if (d_u)
                for (int i = 0; i < n; i++) total[i] += d_u[i];
            g = total;
        }
        for (int i = 0; i < n; i++) {
            first[i] += g[i];
            second[i] += g[i] * ((x[i] - mean[i]) * rstd[i]);
        }
    }
}

/* sums [chunks][2][C] of g and g * xhat; coefficients [chunks][2] of decay and gain, or NULL; all 0 on entry. */
static int neuron_gradient(const struct backward *w, struct cut cut, double *sums, double *coefficients, int64_t threads) {
    const struct norm *norm = &w->norm;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        struct room m;
        float *all = split(&m, cut.block, w->T);
        failed = all == NULL;
        if (all) {
            tile(norm->a, w->C, cut.block, m.a), tile(norm->b, w->C, cut.block, m.b);
            tile(norm->mean, w->C, cut.block, m.mean), tile(norm->rstd, w->C, cut.block, m.rstd);
        }
#pragma omp for schedule(static)
        for (int64_t k = 0; k < cut.chunks; k++) {
            if (!all) continue;
            memset(m.first, 0, sizeof(float) * 2 * cut.block);
            int64_t stop = (k + 1) * cut.chunk < w->N ? (k + 1) * cut.chunk : w->N;
            for (int64_t start = k * cut.chunk; start < stop; start += cut.block) {
                int n = (int)(stop - start < cut.block ? stop - start : cut.block);
                if (w->d_s && w->masks) {
                    pass_masks_block(w, n, start, cut.block, &m);
                } else if (w->d_s) {
                    if (!w->u) recompute_block(w, n, start, cut.block, &m);
                    fire_backward_block(w, n, start, cut.block, &m, coefficients ? coefficients + 2 * k : NULL);
                }
                sum_gradient_block(w, n, start, &m);
            }
            sum_channels(m.first, w->C, cut.block, sums + 2 * k * w->C);
            sum_channels(m.second, w->C, cut.block, sums + (2 * k + 1) * w->C);
        }
        free(all);
    }
    return failed > 0;
}

/* share and tilt [C] are what batch statistics take back. */
static void input_gradient_block(int n, const float *x, const float *g, const float *restrict a, const float *restrict share,
                          const float *restrict mean, const float *restrict tilt, float *d_x) {
#pragma omp simd
    for (int i = 0; i < n; i++) d_x[i] = a[i] * (g[i] - share[i] - (x[i] - mean[i]) * tilt[i]);
}

/* How much more the variance takes back than without root_eps: 1 / rstd over its root. Where that is 0 nothing varies. */
INLINE float stretch(const struct norm *norm, int64_t c) {
    float root = sqrtf(norm->var[c] + (float)norm->eps);
    return norm->root_eps && root > 0 ? 1 + (float)norm->root_eps / root : 1;
}

/* d_x = a * (g - d_bias / count - (x - mean) * rstd * stretch * d_weight / count) over all T * N = count * C elements. */
static int input_gradient(const struct backward *w, struct cut cut, int64_t threads) {
    int64_t N = w->T * w->N, C = w->C;
    float count = (float)(N / C);
    const float *g = w->d_s ? w->g : w->d_u;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        float *room = room_of(4 * cut.block);
        failed = room == NULL;
        if (room) tile(w->norm.a, C, cut.block, room), tile(w->norm.mean, C, cut.block, room + cut.block);
        for (int64_t i = 0; room && i < cut.block; i++) {
            room[2 * cut.block + i] = w->d_bias[i % C] / count;
            room[3 * cut.block + i] = w->norm.rstd[i % C] * stretch(&w->norm, i % C) * w->d_weight[i % C] / count;
        }
#pragma omp for schedule(static)
        for (int64_t start = 0; start < N; start += cut.block) {
            int n = (int)(N - start < cut.block ? N - start : cut.block);
            if (!room) continue;
            const float *a = room, *mean = a + cut.block, *share = mean + cut.block, *tilt = share + cut.block;
            input_gradient_block(n, w->x + start, g + start, a, share, mean, tilt, w->d_x + start);
        }
        free(room);
    }
    return failed > 0;
}

/* Returns 0, or 1 where there is no memory. */
EXPORT int64_t isospike_norm_fire_backward(const struct backward *w, int64_t threads) {
    if (w->C == 0) return 0;
    struct cut cut = cut_of(w->N, w->C);
    int64_t C = w->C;
    double *sums = calloc((cut.chunks + 1) * (2 * C + 2), sizeof(double));
    if (!sums) return 1;
    double *totals = sums + cut.chunks * 2 * C, *coefficients = totals + 2 * C;
    int failed = neuron_gradient(w, cut, sums, w->coefficients ? coefficients : NULL, threads);
    if (!failed) {
        sum_chunks(sums, cut.chunks, C, totals);
        for (int64_t c = 0; c < C; c++) w->d_bias[c] = (float)totals[c], w->d_weight[c] = (float)totals[C + c];
        for (int i = 0; w->coefficients && i < 2; i++) {
            double total = 0;
            for (int64_t k = 0; k < cut.chunks; k++) total += coefficients[2 * k + i];
            w->coefficients[i] = (float)total;
        }
        failed = input_gradient(w, cut, threads);
    }
    free(sums);
    return failed;
}
