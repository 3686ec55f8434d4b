/* What gcc calls for OpenMP, on the threads of POSIX. ThreadSanitizer knows those and sees every barrier; it cannot see
 * inside libgomp, and would take all that it synchronises for races. Linked into the library of the lane alone. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#define MOST_THREADS 64
#define INSIDE __attribute__((visibility("hidden")))

struct team {
    int threads;
    void (*run)(void *);
    void *data;
    pthread_barrier_t barrier;
    pthread_mutex_t lock;
    /* The loop that is shared out: how many threads have come to it, and what is left. */
    int arrived;
    long next, end, step;
};

struct member {
    struct team *team;
    int number;
};

static __thread struct member here;
static pthread_mutex_t atomic_lock = PTHREAD_MUTEX_INITIALIZER;

static void *enter(void *argument) {
    here = *(struct member *)argument;
    here.team->run(here.team->data);
    return NULL;
}

INSIDE void GOMP_parallel(void (*run)(void *), void *data, unsigned threads, unsigned flags) {
    (void)flags;
    if (threads < 1) threads = 1;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    struct team team = {.threads = (int)threads, .run = run, .data = data};
    struct member members[MOST_THREADS], before = here;
    pthread_t started[MOST_THREADS];
    pthread_barrier_init(&team.barrier, NULL, threads);
    pthread_mutex_init(&team.lock, NULL);
    for (unsigned i = 0; i < threads; i++) members[i] = (struct member){&team, (int)i};
    for (unsigned i = 1; i < threads; i++) pthread_create(&started[i], NULL, enter, &members[i]);
    enter(&members[0]);
    for (unsigned i = 1; i < threads; i++) pthread_join(started[i], NULL);
    here = before;
    pthread_mutex_destroy(&team.lock);
    pthread_barrier_destroy(&team.barrier);
}

INSIDE int omp_get_num_threads(void) { return here.team ? here.team->threads : 1; }

INSIDE int omp_get_thread_num(void) { return here.number; }

INSIDE void GOMP_barrier(void) { pthread_barrier_wait(&here.team->barrier); }

INSIDE void GOMP_atomic_start(void) { pthread_mutex_lock(&atomic_lock); }

INSIDE void GOMP_atomic_end(void) { pthread_mutex_unlock(&atomic_lock); }

INSIDE bool GOMP_loop_nonmonotonic_dynamic_next(long *start, long *end) {
    struct team *team = here.team;
    pthread_mutex_lock(&team->lock);
    const long from = team->next, to = from + team->step < team->end ? from + team->step : team->end;
    team->next = to;
    pthread_mutex_unlock(&team->lock);
    *start = from, *end = to;
    return from < to;
}

/* The first thread that comes sets the loop up. All leave through GOMP_loop_end, so no two loops meet. */
INSIDE bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long step, long chunk, long *from, long *to) {
    struct team *team = here.team;
    pthread_mutex_lock(&team->lock);
    if (team->arrived++ == 0) team->next = start, team->end = end, team->step = step * chunk;
    if (team->arrived == team->threads) team->arrived = 0;
    pthread_mutex_unlock(&team->lock);
    return GOMP_loop_nonmonotonic_dynamic_next(from, to);
}

INSIDE void GOMP_loop_end(void) { GOMP_barrier(); }
