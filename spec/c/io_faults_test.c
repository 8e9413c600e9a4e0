/* io_faults_test.c: what happens when a save is cancelled, the disk is full, memory runs out, or a
 * path names something that is no file: an error, the old file as it was, nothing left beside it,
 * nothing held. */
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>

#include "io_samples.h"

/* ---- the operations ----------------------------------------------------------------------- */

typedef peri_status (*operation_fn)(peri_context *context, const peri_control *control);

static peri_matrix *shared_matrix(peri_context *context) {
    return random_matrix(context, 40000, 4, PERI_F32);
}

static peri_status save_matrix_as(peri_context *context, const char *name) {
    peri_matrix *matrix = shared_matrix(context);
    peri_status status = peri_matrix_save(matrix, sample_path(name), NULL);
    peri_matrix_release(matrix);
    return status;
}

static peri_status save_npy(peri_context *context, const peri_control *control) {
    (void)control;
    return save_matrix_as(context, "target.npy");
}

static peri_status save_fvecs(peri_context *context, const peri_control *control) {
    (void)control;
    return save_matrix_as(context, "target.fvecs");
}

/* From a matrix with a stride, which is read through a buffer. */
static peri_status save_mapped(peri_context *context, const peri_control *control) {
    peri_load_options options = PERI_LOAD_OPTIONS_INIT;
    peri_matrix *matrix;
    options.map = true;
    options.control = control;
    PERI_TRY(peri_matrix_load(context, sample_path("target.fvecs"), &options, &matrix));
    peri_status status = peri_matrix_save(matrix, sample_path("target.fbin"), NULL);
    peri_matrix_release(matrix);
    return status;
}

static peri_status save_index(peri_context *context, const peri_control *control) {
    return save_container(context, sample_path("target.perigee"), control);
}

static peri_status save_graph(peri_context *context, const peri_control *control) {
    return save_hnsw(context, sample_path("target.hnsw"), PERI_F32, control);
}

static peri_status load(peri_context *context, const char *name, bool map,
                        const peri_control *control) {
    peri_load_options options = PERI_LOAD_OPTIONS_INIT;
    peri_matrix *matrix;
    options.map = map;
    options.control = control;
    peri_status status = peri_matrix_load(context, sample_path(name), &options, &matrix);
    CHECK((status == PERI_OK) == (matrix != NULL), "%s: out", name);
    peri_matrix_release(matrix);
    return status;
}

static peri_status load_npy(peri_context *context, const peri_control *control) {
    return load(context, "target.npy", false, control);
}

static peri_status load_fvecs(peri_context *context, const peri_control *control) {
    return load(context, "target.fvecs", false, control);
}

static peri_status map_fvecs(peri_context *context, const peri_control *control) {
    return load(context, "target.fvecs", true, control);
}

static peri_status load_doubles(peri_context *context, const peri_control *control) {
    return load(context, "doubles.npy", false, control);
}

static peri_status open_index(peri_context *context, const char *name, bool map,
                              const peri_control *control) {
    peri_container *container;
    peri_status status = peri_container_open(context, sample_path(name), map, control, &container);
    CHECK((status == PERI_OK) == (container != NULL), "%s: out", name);
    peri_container_close(container);
    return status;
}

static peri_status read_index(peri_context *context, const peri_control *control) {
    return open_index(context, "target.perigee", false, control);
}

static peri_status map_index(peri_context *context, const peri_control *control) {
    return open_index(context, "target.perigee", true, control);
}

static peri_status read_graph(peri_context *context, const peri_control *control) {
    peri_hnswlib_graph g;
    peri_status status = peri_hnswlib_read(context, sample_path("target.hnsw"), PERI_F32, control,
                                           &g);
    CHECK((status == PERI_OK) == (g.rows != NULL), "graph: out");
    peri_hnswlib_graph_release(&g);
    return status;
}

typedef struct operation {
    const char *name;
    operation_fn run;
    const char *target; /* what it writes, NULL: it reads */
    bool polls;
} operation;

/* In an order in which each finds its input. */
static const operation operations[] = {
    { "save npy", save_npy, "target.npy", false },
    { "save fvecs", save_fvecs, "target.fvecs", false },
    { "save a mapped matrix", save_mapped, "target.fbin", true },
    { "save an index", save_index, "target.perigee", true },
    { "save a graph", save_graph, "target.hnsw", true },
    { "load npy", load_npy, NULL, true },
    { "load fvecs", load_fvecs, NULL, true },
    { "map fvecs", map_fvecs, NULL, true },
    { "load f64", load_doubles, NULL, true },
    { "read an index", read_index, NULL, true },
    { "map an index", map_index, NULL, true },
    { "read a graph", read_graph, NULL, true },
};

#define OPERATIONS (sizeof operations / sizeof *operations)

static void make_inputs(peri_context *context) {
    static const char text[] = "{'descr': '<f8', 'fortran_order': False, 'shape': (40000, 1)}";
    unsigned char *file = calloc(1, 128 + 320000);
    memcpy(file, "\x93NUMPY\x01", 7);
    file[8] = sizeof text - 1;
    memcpy(file + 10, text, sizeof text - 1);
    blob_write(sample_path("doubles.npy"), file, 10 + sizeof text - 1 + 320000);
    free(file);
    for (size_t i = 0; i < OPERATIONS; i++)
        CHECK(operations[i].run(context, NULL) == PERI_OK, "%s: %s", operations[i].name,
              peri_error_detail());
}

/* Puts marked content where the operation writes, so that "as it was" can be told from
 * "rewritten". */
static blob mark_target(const operation *op) {
    blob old = { NULL, 0 };
    if (op->target == NULL) return old;
    blob_write(sample_path(op->target), "the old file", 12);
    return blob_read(sample_path(op->target));
}

static void check_untouched(const operation *op, blob old, size_t entries, const char *fault) {
    if (op->target != NULL)
        CHECK(blob_same(sample_path(op->target), old), "%s, %s: the old file changed", op->name,
              fault);
    CHECK(folder_count() == entries, "%s, %s: something was left", op->name, fault);
}

/* ---- cancelling --------------------------------------------------------------------------- */

typedef struct cancelling {
    size_t polls, at;
} cancelling;

static peri_status cancel_at(void *ud, const char *stage, size_t done, size_t total) {
    cancelling *c = ud;
    CHECK(stage != NULL && done <= total, "%zu of %zu", done, total);
    return c->polls++ == c->at ? PERI_E_CANCELLED : PERI_OK;
}

static void test_cancel(const operation *op) {
    size_t at = 0;
    for (;; at++) {
        peri_context *context = plain_context();
        cancelling c = { 0, at };
        peri_control control = { cancel_at, &c };
        size_t entries = folder_count();
        blob old = mark_target(op);
        peri_status status = op->run(context, &control);
        bool fired = c.polls > at;
        CHECK(status == (fired ? PERI_E_CANCELLED : PERI_OK), "%s, poll %zu: %s", op->name, at,
              peri_error_detail());
        if (fired) check_untouched(op, old, entries, "cancelled");
        free(old.data);
        context_end(context, op->name);
        if (!fired) break;
    }
    CHECK(at >= 1, "%s never polled", op->name);
}

/* ---- a full disk -------------------------------------------------------------------------- */

/* The limit on a file's size fails writes as a full disk does, after `bytes`. */
static void test_full_disk(const operation *op, size_t bytes) {
    struct rlimit before, small;
    peri_context *context = plain_context();
    size_t entries = folder_count();
    blob old = mark_target(op);
    getrlimit(RLIMIT_FSIZE, &before);
    small = (struct rlimit){ bytes, before.rlim_max };
    setrlimit(RLIMIT_FSIZE, &small);
    peri_status status = op->run(context, NULL);
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK(status == PERI_E_IO, "%s, %zu bytes: %d", op->name, bytes, status);
    CHECK(strstr(peri_error_detail(), op->target) != NULL, "%s: %s", op->name, peri_error_detail());
    check_untouched(op, old, entries, "full disk");
    free(old.data);
    context_end(context, op->name);
    context = plain_context();
    CHECK(op->run(context, NULL) == PERI_OK, "%s after it: %s", op->name, peri_error_detail());
    context_end(context, op->name);
}

/* ---- no memory ---------------------------------------------------------------------------- */

typedef struct failing {
    size_t calls, at; /* at 0: none fails */
    bool onwards;     /* all from the at-th on */
} failing;

static void *failing_resize(void *ud, void *p, size_t old_bytes, size_t new_bytes, size_t align) {
    failing *f = ud;
    if (new_bytes == 0) {
        free(p);
        return NULL;
    }
    f->calls++;
    if (f->at != 0 && (f->calls == f->at || (f->onwards && f->calls > f->at))) return NULL;
    void *block = aligned_alloc(align, (new_bytes + align - 1) / align * align);
    if (block != NULL && p != NULL) {
        memcpy(block, p, old_bytes < new_bytes ? old_bytes : new_bytes);
        free(p);
    }
    return block;
}

/* The samples' own matrices come from the same context: their failure is not what is tested, so
 * they are made with the failures off. */
typedef struct prepared {
    peri_context *context;
    peri_matrix *matrix;
    peri_section section;
    peri_hnswlib_graph graph;
} prepared;

static peri_status run_prepared(const operation *op, prepared *p) {
    if (op->run == save_npy || op->run == save_fvecs)
        return peri_matrix_save(p->matrix, sample_path(op->target), NULL);
    if (op->run == save_index) {
        const peri_option option = { "note", { PERI_VALUE_TEXT, { .text = "text" } } };
        const peri_options params = { &option, 1 };
        return peri_container_save(p->context, sample_path(op->target), "flat", &params,
                                   &p->section, 1, NULL);
    }
    if (op->run == save_graph)
        return peri_hnswlib_write(p->context, sample_path(op->target), &p->graph, NULL);
    return op->run(p->context, NULL);
}

static void test_no_memory(const operation *op, bool onwards) {
    peri_context_options options = PERI_CONTEXT_OPTIONS_INIT;
    for (size_t at = 1;; at++) {
        failing f = { 0, 0, onwards };
        prepared p;
        options.threads = 1;
        options.allocator = (peri_allocator){ &f, failing_resize };
        if (peri_context_create(&options, &p.context) != PERI_OK) abort();
        p.matrix = shared_matrix(p.context);
        p.section = (peri_section){ "rows", p.matrix };
        p.graph = make_hnsw(p.context, PERI_F32);
        size_t entries = folder_count();
        blob old = mark_target(op);
        f.calls = 0;
        f.at = at;
        peri_status status = run_prepared(op, &p);
        bool fired = f.calls >= at;
        f.at = 0;
        CHECK(status == (fired ? PERI_E_MEMORY : PERI_OK), "%s, allocation %zu: %d, %s", op->name,
              at, status, peri_error_detail());
        if (fired) check_untouched(op, old, entries, "no memory");
        free(old.data);
        peri_matrix_release(p.matrix);
        peri_hnswlib_graph_release(&p.graph);
        context_end(p.context, op->name);
        if (!fired) {
            CHECK(at > 1, "%s acquires nothing", op->name);
            break;
        }
    }
}

/* ---- paths that are no files -------------------------------------------------------------- */

/* Refused by each reader, with a message that says what it is. */
static void check_refused(const char *path, const char *says) {
    peri_context *context = plain_context();
    peri_load_options options = PERI_LOAD_OPTIONS_INIT;
    peri_hnswlib_graph g;
    peri_container *container;
    peri_matrix *matrix;
    options.format = "npy";
    for (int i = 0; i < 4; i++) {
        options.map = i == 1;
        peri_status status = i < 2    ? peri_matrix_load(context, path, &options, &matrix)
                             : i == 2 ? peri_container_open(context, path, false, NULL, &container)
                                      : peri_hnswlib_read(context, path, PERI_F32, NULL, &g);
        CHECK(status == PERI_E_IO && strstr(peri_error_detail(), says) != NULL, "%s, reader %d: %s",
              path, i, peri_error_detail());
    }
    context_end(context, path);
}

static void test_paths(void) {
    const char *fifo = sample_path("fifo"), *empty = sample_path("empty");
    if (mkfifo(fifo, 0600) != 0) abort();
    blob_write(empty, "", 0);
    check_refused(sample_folder, "directory");
    check_refused(fifo, "FIFO");
    check_refused("/dev/zero", "device");
    check_refused(empty, "empty");
    check_refused(sample_path("absent"), strerror(ENOENT));
    check_refused("", strerror(ENOENT));
    if (geteuid() == 0) {
        check_skip("a file without read permission", "root may read it");
    } else {
        blob_write(empty, "x", 1);
        chmod(empty, 0);
        check_refused(empty, strerror(EACCES));
    }
    unlink(empty);
    /* Saving: over what is no regular file, and where there is no folder. */
    peri_context *context = plain_context();
    peri_matrix *matrix = random_matrix(context, 1, 1, PERI_U8);
    const char *const bad[] = {
        fifo, sample_folder, "/dev/full", sample_path("no/such.npy"), sample_path("folder/"), ""
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(peri_matrix_save(matrix, bad[i], "npy") == PERI_E_IO, "%s: saved", bad[i]);
    unlink(fifo);
    CHECK(peri_matrix_save(matrix, NULL, "npy") == PERI_E_ARGUMENT, "no path");
    peri_matrix_release(matrix);
    context_end(context, "saving");
}

/* A save through a symbolic link replaces what it names and keeps its permissions. */
static void test_link_and_mode(void) {
    peri_context *context = plain_context();
    peri_matrix *matrix = random_matrix(context, 1, 1, PERI_U8);
    const char *real = sample_path("real.npy"), *link = sample_path("link.npy");
    struct stat st;
    blob_write(real, "x", 1);
    chmod(real, 0640);
    if (symlink("real.npy", link) != 0) abort();
    CHECK(peri_matrix_save(matrix, link, NULL) == PERI_OK, "%s", peri_error_detail());
    CHECK(lstat(link, &st) == 0 && S_ISLNK(st.st_mode), "the link is gone");
    CHECK(stat(real, &st) == 0 && st.st_size == 65 + 64 && (st.st_mode & 0777) == 0640,
          "%ld bytes, mode %o", (long)st.st_size, (unsigned)st.st_mode);
    unlink(link);
    unlink(real);
    peri_matrix_release(matrix);
    context_end(context, "link and mode");
}

/* A file that another process cuts while it is open: what is missing is an error, not a crash. */
static void test_shrinking(void) {
    const char *path = sample_path("target.npy");
    blob whole = blob_read(path);
    peri_file file;
    char *data = malloc(whole.bytes);
    CHECK(peri_file_open(path, &file) == PERI_OK && file.bytes == whole.bytes, "%s",
          peri_error_detail());
    if (truncate(path, 100) != 0) abort();
    CHECK(peri_file_read(&file, 0, data, whole.bytes) == PERI_E_IO, "read past the end");
    peri_file_close(&file);
    blob_write(path, whole.data, whole.bytes);
    free(whole.data);
    free(data);
}

int main(void) {
    samples_begin();
    signal(SIGXFSZ, SIG_IGN);
    peri_context *context = plain_context();
    make_inputs(context);
    context_end(context, "inputs");
    for (size_t i = 0; i < OPERATIONS; i++) {
        if (operations[i].polls) test_cancel(&operations[i]);
        test_no_memory(&operations[i], false);
        test_no_memory(&operations[i], true);
        if (operations[i].target == NULL) continue;
        for (size_t bytes = 0; bytes < 320; bytes += 160) test_full_disk(&operations[i], bytes);
    }
    test_paths();
    test_link_and_mode();
    test_shrinking();
    samples_end();
    return check_done();
}
