/* fma_rate: how many floating-point operations a second this machine does in f32 fused
 * multiply-adds, the roof over every exact search.
 *
 *     fma_rate THREADS SECONDS
 *
 * Twelve independent chains of vectors as wide as -march=native has registers for: enough to fill
 * the latency of the units, few enough for sixteen registers. One thread each, started together;
 * the rate is the sum.
 * Prints one line of key=value. */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifdef __AVX512F__
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define CHAINS 12
#define STEPS 100000
#define THREADS_MAX 1024

typedef float vector __attribute__((vector_size(WIDTH * sizeof(float))));

typedef struct worker {
    pthread_t thread;
    pthread_barrier_t *start;
    double seconds;
    double rate; /* operations a second */
    float sink;  /* so that the work has a result */
} worker;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* The chains are copied to a local array whose indexes are constant once unrolled, so that they
 * stay in registers. */
static void run_chains(vector kept[CHAINS], vector factor, vector term) {
    vector chain[CHAINS];
#pragma GCC unroll 16
    for (int c = 0; c < CHAINS; c++) chain[c] = kept[c];
    for (int step = 0; step < STEPS; step++) {
#pragma GCC unroll 16
        for (int c = 0; c < CHAINS; c++) chain[c] = chain[c] * factor + term;
    }
#pragma GCC unroll 16
    for (int c = 0; c < CHAINS; c++) kept[c] = chain[c];
}

static void *work(void *argument) {
    worker *self = argument;
    vector chain[CHAINS], factor, term, sum = { 0 };
    for (int lane = 0; lane < WIDTH; lane++) {
        factor[lane] = 0.5F;
        term[lane] = 1.0F;
        for (int c = 0; c < CHAINS; c++) chain[c][lane] = (float)(c + lane);
    }
    pthread_barrier_wait(self->start);
    double began = now(), rounds = 0;
    do {
        run_chains(chain, factor, term);
        rounds++;
    } while (now() - began < self->seconds);
    self->rate = rounds * STEPS * CHAINS * WIDTH * 2 / (now() - began);
    for (int c = 0; c < CHAINS; c++) sum += chain[c];
    self->sink = sum[0];
    return NULL;
}

int main(int argc, char **argv) {
    static worker workers[THREADS_MAX];
    pthread_barrier_t start;
    int threads = argc == 3 ? atoi(argv[1]) : 0;
    double seconds = argc == 3 ? atof(argv[2]) : 0, rate = 0;
    if (threads < 1 || threads > THREADS_MAX || seconds <= 0) {
        fprintf(stderr, "usage: fma_rate THREADS SECONDS\n");
        return 2;
    }
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        workers[i] = (worker){ .start = &start, .seconds = seconds };
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) return 1;
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        rate += workers[i].rate;
    }
    printf("what=fma\tthreads=%d\tgflops=%.1f\twidth=%d\n", threads, rate / 1e9, WIDTH);
    return 0;
}
