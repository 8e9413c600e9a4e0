/* atomic_file.c: writes to a fresh file in the folder of the target, then renames it over.
 *
 * The fresh file's name does not depend on the target's, which may already be as long as a name can
 * be. A process that is killed while saving leaves one such `.perigee-*.part`; every other end
 * removes it. A failed write or sync is final: Linux may drop the dirty pages and report success
 * the next time. Threads: one at a time for each file. */
#include "io/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/checked.h"
#include "core/memory.h"
#include "io/file_map.h"

#define BUFFER_BYTES ((size_t)256 << 10)
#define NAMES_TRIED 100

struct peri_atomic_file {
    peri_context *context;
    int fd, folder;
    bool failed;
    size_t used;   /* bytes in the buffer */
    size_t offset; /* bytes appended, the buffer's counted */
    char target[PATH_MAX];
    const char *name; /* the last part of `target`, relative to `folder` */
    char part[64];    /* the fresh file, relative to `folder`; "" when there is none */
    unsigned char buffer[BUFFER_BYTES];
};

static peri_status io_failure(peri_atomic_file *file, const char *what, int error) {
    file->failed = true;
    return peri_fail(PERI_E_IO, "%s: %s failed: %s", peri_path_tail(file->target), what,
                     strerror(error));
}

/* Follows a symbolic link to what it names; `mode` is the old file's, or 0 when there is none. */
static peri_status find_target(peri_atomic_file *file, const char *path, mode_t *mode) {
    struct stat st;
    *mode = 0;
    if (path[0] == '\0') return peri_fail(PERI_E_IO, "path: empty, a file's name is needed");
    if (strlen(path) >= sizeof file->target)
        return peri_fail(PERI_E_IO, "%s: %s", peri_path_tail(path), strerror(ENAMETOOLONG));
    memcpy(file->target, path, strlen(path) + 1);
    if (stat(path, &st) != 0) {
        if (errno == ENOENT) return PERI_OK;
        return peri_fail(PERI_E_IO, "%s: can't be written: %s", peri_path_tail(path),
                         strerror(errno));
    }
    if (!S_ISREG(st.st_mode))
        return peri_fail(PERI_E_IO, "%s: is %s, a regular file or a new name is needed",
                         peri_path_tail(path),
                         S_ISDIR(st.st_mode) ? "a directory" : "no regular file");
    *mode = st.st_mode & 07777;
    if (realpath(path, file->target) == NULL) return io_failure(file, "resolving", errno);
    return PERI_OK;
}

static peri_status open_folder(peri_atomic_file *file) {
    char *slash = strrchr(file->target, '/');
    file->name = slash == NULL ? file->target : slash + 1;
    if (file->name[0] == '\0')
        return peri_fail(PERI_E_IO, "%s: is a folder's name", peri_path_tail(file->target));
    char folder[PATH_MAX] = ".";
    if (slash != NULL) {
        size_t length = slash == file->target ? 1 : (size_t)(slash - file->target);
        memcpy(folder, file->target, length);
        folder[length] = '\0';
    }
    file->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file->folder < 0)
        return peri_fail(PERI_E_IO, "%s: its folder can't be opened: %s",
                         peri_path_tail(file->target), strerror(errno));
    return PERI_OK;
}

static peri_status create_part(peri_atomic_file *file, mode_t mode) {
    static atomic_uint counter;
    for (int i = 0; i < NAMES_TRIED; i++) {
        snprintf(file->part, sizeof file->part, ".perigee-%ld-%u.part", (long)getpid(),
                 atomic_fetch_add(&counter, 1));
        file->fd = openat(file->folder, file->part,
                          O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (file->fd >= 0 || (errno != EEXIST && errno != EINTR)) break;
    }
    if (file->fd < 0) {
        int error = errno;
        file->part[0] = '\0';
        return io_failure(file, "creating a file beside it", error);
    }
    /* Permissions that can't be kept are no reason not to save. */
    if (mode != 0 && fchmod(file->fd, mode) != 0) errno = 0;
    return PERI_OK;
}

static void file_free(peri_atomic_file *file) {
    if (file->fd >= 0) close(file->fd);
    if (file->part[0] != '\0') unlinkat(file->folder, file->part, 0);
    if (file->folder >= 0) close(file->folder);
    peri_context *context = file->context;
    peri_memory_release(context, file, 1, sizeof *file);
    peri_context_release(context);
}

peri_status peri_atomic_file_open(peri_context *context, const char *path, peri_atomic_file **out) {
    peri_atomic_file *file;
    mode_t mode;
    *out = NULL;
    if (path == NULL) return peri_fail(PERI_E_ARGUMENT, "path: none given");
    PERI_TRY(peri_memory_acquire(context, 1, sizeof *file, &file));
    peri_context_retain(context);
    file->context = context;
    file->fd = file->folder = -1;
    file->failed = false;
    file->used = file->offset = 0;
    file->part[0] = '\0';
    peri_status status;
    PERI_GO(find_target(file, path, &mode));
    PERI_GO(open_folder(file));
    PERI_GO(create_part(file, mode));
    *out = file;
    return PERI_OK;
done:
    file_free(file);
    return status;
}

static peri_status write_at(peri_atomic_file *file, size_t offset, const void *data, size_t bytes) {
    const char *from = data;
    size_t done = 0;
    while (done < bytes) {
        ssize_t put = pwrite(file->fd, from + done, bytes - done, (off_t)(offset + done));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return io_failure(file, "writing", errno);
        if (put == 0) return io_failure(file, "writing", ENOSPC);
        done += (size_t)put;
    }
    return PERI_OK;
}

static peri_status check_alive(const peri_atomic_file *file) {
    if (!file->failed) return PERI_OK;
    return peri_fail(PERI_E_IO, "%s: an earlier write failed", peri_path_tail(file->target));
}

static peri_status flush(peri_atomic_file *file) {
    size_t used = file->used;
    file->used = 0;
    return write_at(file, file->offset - used, file->buffer, used);
}

peri_status peri_atomic_file_write(peri_atomic_file *file, const void *data, size_t bytes) {
    PERI_TRY(check_alive(file));
    if (bytes > BUFFER_BYTES - file->used) PERI_TRY(flush(file));
    if (bytes > BUFFER_BYTES) {
        PERI_TRY(write_at(file, file->offset, data, bytes));
    } else if (bytes > 0) {
        memcpy(file->buffer + file->used, data, bytes);
        file->used += bytes;
    }
    file->offset += bytes;
    return PERI_OK;
}

peri_status peri_atomic_file_patch(peri_atomic_file *file, size_t offset, const void *data,
                                   size_t bytes) {
    PERI_ASSERT(offset <= file->offset && bytes <= file->offset - offset);
    PERI_TRY(check_alive(file));
    PERI_TRY(flush(file));
    return write_at(file, offset, data, bytes);
}

size_t peri_atomic_file_offset(const peri_atomic_file *file) { return file->offset; }

static peri_status publish(peri_atomic_file *file) {
    PERI_TRY(check_alive(file));
    PERI_TRY(flush(file));
    if (fsync(file->fd) != 0) return io_failure(file, "syncing", errno);
    int fd = file->fd;
    file->fd = -1;
    if (close(fd) != 0) return io_failure(file, "closing", errno);
    if (renameat(file->folder, file->part, file->folder, file->name) != 0)
        return io_failure(file, "renaming", errno);
    file->part[0] = '\0';
    /* EINVAL: a file system that does not sync folders, and needs none. */
    if (fsync(file->folder) != 0 && errno != EINVAL)
        return io_failure(file, "the file is in place, but syncing its folder", errno);
    return PERI_OK;
}

peri_status peri_atomic_file_commit(peri_atomic_file *file) {
    peri_status status = publish(file);
    file_free(file);
    return status;
}

void peri_atomic_file_discard(peri_atomic_file *file) {
    if (file != NULL) file_free(file);
}
