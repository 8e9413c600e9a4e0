/* file_map.c: opening, reading and mapping regular files. */
#include "io/file_map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/checked.h"
#include "core/memory.h"

struct peri_file_map {
    atomic_size_t references;
    peri_context *context;
    void *data;
    size_t bytes;
};

static const char *kind_of(mode_t mode) {
    if (S_ISDIR(mode)) return "a directory";
    if (S_ISFIFO(mode)) return "a FIFO";
    if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
    return "not a regular file";
}

static peri_status check_file(const char *path, int fd, size_t *bytes) {
    struct stat st;
    path = peri_path_tail(path);
    if (fstat(fd, &st) != 0)
        return peri_fail(PERI_E_IO, "%s: can't be examined: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return peri_fail(PERI_E_IO, "%s: is %s, a regular file is needed", path,
                         kind_of(st.st_mode));
    if (st.st_size <= 0) return peri_fail(PERI_E_IO, "%s: is empty", path);
    *bytes = (size_t)st.st_size;
    return PERI_OK;
}

peri_status peri_file_open(const char *path, peri_file *out) {
    *out = PERI_FILE_CLOSED;
    if (path == NULL) return peri_fail(PERI_E_ARGUMENT, "path: none given");
    /* O_NONBLOCK: a FIFO without a writer would keep open() waiting. */
    int fd;
    do {
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return peri_fail(PERI_E_IO, "%s: can't be opened: %s", peri_path_tail(path),
                         strerror(errno));
    size_t bytes = 0;
    peri_status status = check_file(path, fd, &bytes);
    if (status != PERI_OK) {
        close(fd);
        return status;
    }
    *out = (peri_file){ path, fd, bytes };
    return PERI_OK;
}

void peri_file_close(peri_file *file) {
    if (file->fd >= 0) close(file->fd);
    *file = PERI_FILE_CLOSED;
}

peri_status peri_file_read(const peri_file *file, size_t offset, void *data, size_t bytes) {
    char *to = data;
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = pread(file->fd, to + done, bytes - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return peri_fail(PERI_E_IO, "%s: reading at byte %zu failed: %s",
                             peri_path_tail(file->path), offset + done, strerror(errno));
        if (got == 0)
            return peri_fail(PERI_E_IO, "%s: ends at byte %zu, %zu were there when it was opened",
                             peri_path_tail(file->path), offset + done, file->bytes);
        done += (size_t)got;
    }
    return PERI_OK;
}

peri_status peri_file_map_open(peri_context *context, const peri_file *file, peri_file_map **out) {
    peri_file_map *map;
    *out = NULL;
    PERI_TRY(peri_memory_acquire(context, 1, sizeof *map, &map));
    /* Private and writable, so that writing to a mapped matrix copies a page instead of crashing;
     * MAP_NORESERVE, so that a file larger than memory and swap can still be mapped. */
    void *data = mmap(NULL, file->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                      file->fd, 0);
    if (data == MAP_FAILED) {
        int error = errno;
        peri_memory_release(context, map, 1, sizeof *map);
        return peri_fail(PERI_E_IO, "%s: %zu bytes can't be mapped: %s", peri_path_tail(file->path),
                         file->bytes, strerror(error));
    }
    atomic_init(&map->references, 1);
    peri_context_retain(context);
    map->context = context;
    map->data = data;
    map->bytes = file->bytes;
    *out = map;
    return PERI_OK;
}

void *peri_file_map_data(const peri_file_map *map) { return map->data; }

void peri_file_map_retain(peri_file_map *map) { atomic_fetch_add(&map->references, 1); }

void peri_file_map_release(void *map) {
    peri_file_map *self = map;
    if (self == NULL || atomic_fetch_sub(&self->references, 1) != 1) return;
    peri_context *context = self->context;
    munmap(self->data, self->bytes);
    peri_memory_release(context, self, 1, sizeof *self);
    peri_context_release(context);
}
