/* synthetic: writes rows of synthetic.h to an .fbin file (u32 rows, u32 columns, then f32 rows).
 *
 *     synthetic set=16|32 count=N out=PATH
 *               [dim=128] [stream=base|queries|learn] [first=0] [threads=1]
 *
 * first: the number of the first row, so that a large set can be made in pieces. Each thread makes
 * and writes blocks of rows of its own; the bytes do not depend on how many there are. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "synthetic.h"

#define BLOCK_ROWS 4096
#define THREADS_MAX 1024
#define HEADER_BYTES 8

typedef struct job {
    peri_synthetic set;
    int16_t *map;
    uint64_t stream, first;
    size_t count, threads;
    int file;
    atomic_size_t next; /* row of the block that nobody has taken */
    atomic_bool failed;
} job;

static bool write_all(int file, const void *data, size_t bytes, off_t at) {
    const char *from = data;
    while (bytes > 0) {
        ssize_t done = pwrite(file, from, bytes, at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        from += done;
        at += done;
        bytes -= (size_t)done;
    }
    return true;
}

static void *work(void *argument) {
    job *all = argument;
    size_t row_bytes = all->set.dim * sizeof(float), begin;
    float *values = malloc(BLOCK_ROWS * row_bytes);
    if (!values) atomic_store(&all->failed, true);
    while (!atomic_load(&all->failed) &&
           (begin = atomic_fetch_add(&all->next, BLOCK_ROWS)) < all->count) {
        size_t rows = all->count - begin < BLOCK_ROWS ? all->count - begin : BLOCK_ROWS;
        for (size_t i = 0; i < rows; i++)
            peri_synthetic_row(&all->set, all->map, all->stream, all->first + begin + i,
                               values + i * all->set.dim);
        off_t at = (off_t)(HEADER_BYTES + begin * row_bytes);
        if (!write_all(all->file, values, rows * row_bytes, at)) atomic_store(&all->failed, true);
    }
    free(values);
    return NULL;
}

static bool run(job *all) {
    static pthread_t threads[THREADS_MAX];
    size_t started = 0;
    uint32_t header[2] = { (uint32_t)all->count, all->set.dim };
    if (!write_all(all->file, header, sizeof header, 0)) return false;
    while (started < all->threads && pthread_create(&threads[started], NULL, work, all) == 0)
        started++;
    for (size_t i = 0; i < started; i++) pthread_join(threads[i], NULL);
    return started > 0 && !atomic_load(&all->failed);
}

static const char *word(int argc, char **argv, const char *key, const char *otherwise) {
    size_t length = strlen(key);
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], key, length) == 0 && argv[i][length] == '=')
            return argv[i] + length + 1;
    return otherwise;
}

static int stream_of(const char *name) {
    static const char *names[] = { "base", "queries", "learn" };
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) return i;
    return -1;
}

int main(int argc, char **argv) {
    const char *set = word(argc, argv, "set", ""), *out = word(argc, argv, "out", NULL);
    uint32_t dim = (uint32_t)strtoul(word(argc, argv, "dim", "128"), NULL, 10);
    int stream = stream_of(word(argc, argv, "stream", "base"));
    static job all;
    all.set = strcmp(set, "32") == 0 ? peri_synthetic_32(dim) : peri_synthetic_16(dim);
    all.stream = (uint64_t)stream;
    all.first = strtoull(word(argc, argv, "first", "0"), NULL, 10);
    all.count = strtoull(word(argc, argv, "count", "0"), NULL, 10);
    all.threads = strtoull(word(argc, argv, "threads", "1"), NULL, 10);
    if ((strcmp(set, "16") != 0 && strcmp(set, "32") != 0) || !out || stream < 0 || all.count < 1 ||
        all.count > UINT32_MAX || all.threads < 1 || all.threads > THREADS_MAX ||
        !peri_synthetic_check(&all.set)) {
        fprintf(stderr, "usage: synthetic set=16|32 count=N out=PATH [dim=128] "
                        "[stream=base|queries|learn] [first=0] [threads=1]\n");
        return 2;
    }
    all.map = malloc(sizeof(int16_t) * dim * all.set.latents);
    all.file = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (all.map) peri_synthetic_map(&all.set, all.map);
    if (!all.map || all.file < 0 || !run(&all) || close(all.file) != 0) {
        fprintf(stderr, "synthetic: cannot write %s: %s\n", out, strerror(errno));
        return 1;
    }
    free(all.map);
    return 0;
}
