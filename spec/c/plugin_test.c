/* plugin_test: a CUDA plug-in that is missing, damaged, of another interface or no plug-in at all,
 * and a driver that is too old: told in one line that says which, each time it is asked, and the
 * CPU goes on.
 *
 * A process keeps what it loaded, so each case is one of its own. */
#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "place.h"

static char folder[400], own[400]; /* the plug-in of a case; where this program is */

static void put(const char *text, size_t size) {
    char path[500];
    snprintf(path, sizeof path, "%s/perigee_cuda.so", folder);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(text, 1, size, file) != size) exit(2);
    fclose(file);
}

static void put_link(const char *to) {
    char path[500];
    snprintf(path, sizeof path, "%s/perigee_cuda.so", folder);
    if (symlink(to, path) != 0) exit(2);
}

static peri_context *open_here(const char *plugins) {
    peri_context_options options = PERI_CONTEXT_OPTIONS_INIT;
    peri_context *context = NULL;
    options.threads = 1;
    options.plugin_path = plugins;
    place_must(peri_context_create(&options, &context), "context");
    return context;
}

/* All that asks for a device says `words`, and the CPU does what it is asked. */
static void check_refused(const char *plugins, const char *words) {
    peri_context *context = open_here(plugins);
    peri_place gpu = { PERI_PLACE_CUDA, 0 };
    peri_device_info info;
    peri_matrix *m = NULL;
    for (int round = 0; round < 2; round++) {
        uint32_t count = 7;
        peri_status status = peri_device_count(context, PERI_PLACE_CUDA, &count);
        CHECK(status == PERI_OK && count == 0 && strstr(peri_error_detail(), words) != NULL,
              "count %u, '%s' wanted: %s", count, words, peri_error_detail());
        CHECK(strchr(peri_error_detail(), '\n') == NULL, "more than a line: %s",
              peri_error_detail());
        status = peri_device_stat(context, gpu, &info);
        CHECK(status == PERI_E_DEVICE && strstr(peri_error_detail(), words) != NULL,
              "stat, '%s' wanted: %s", words, peri_error_detail());
        status = peri_matrix_create(context, 2, 2, PERI_F32, gpu, &m);
        CHECK(status == PERI_E_DEVICE && m == NULL && strstr(peri_error_detail(), words) != NULL,
              "a matrix, '%s' wanted: %s", words, peri_error_detail());
    }
    place_must(peri_matrix_create(context, 2, 2, PERI_F32, PERI_CPU, &m), "the cpu");
    peri_matrix_release(m);
    peri_context_release(context);
}

/* ---- the cases ---------------------------------------------------------------------------- */

static void case_missing(void) { check_refused(folder, "cannot open shared object file"); }

static void case_no_folder(void) {
    check_refused("/no/such/folder", "/no/such/folder/perigee_cuda.so");
}

static void case_empty(void) {
    put("", 0);
    check_refused(folder, "file too short");
}

static void case_text(void) {
    static char text[4096] = "This is no library.";
    put(text, sizeof text);
    check_refused(folder, "invalid ELF header");
}

static void case_no_symbol(void) {
    put_link("/proc/self/exe"); /* a program, which can't be opened as a library */
    check_refused(folder, "no CUDA plug-in");
}

static void pretend(const char *what, const char *words) {
    char stub[500];
    snprintf(stub, sizeof stub, "%s/../plugin.so", own);
    put_link(stub);
    setenv("PERIGEE_TEST_PLUGIN", what, 1);
    check_refused(folder, words);
}

static void case_good(void) { pretend("", "this is a pretended plug-in"); }
static void case_declines(void) { pretend("declines", "of interface "); }
static void case_silent(void) { pretend("silent", "it gave no reason"); }
static void case_older(void) { pretend("older", "build both together"); }
static void case_other(void) { pretend("other", "is for another kind of place"); }

/* The real one, and a driver before its time. */
static void case_old_driver(void) {
    char plugins[500];
    snprintf(plugins, sizeof plugins, "%s/../../lib/perigee", own);
    check_refused(plugins, "driver for CUDA 11.0");
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    { "missing", case_missing },   { "no folder", case_no_folder }, { "empty", case_empty },
    { "text", case_text },         { "no symbol", case_no_symbol }, { "good", case_good },
    { "declines", case_declines }, { "silent", case_silent },       { "older", case_older },
    { "other", case_other },
};

/* ---- each in a process of its own --------------------------------------------------------- */

static void make_folder(void) {
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - 1);
    if (length < 0) exit(2);
    own[length] = '\0';
    *strrchr(own, '/') = '\0';
    snprintf(folder, sizeof folder, "%.300s/perigee-plugin-XXXXXX", check_folder());
    if (mkdtemp(folder) == NULL) exit(2);
}

static void drop_folder(void) {
    char path[500];
    snprintf(path, sizeof path, "%s/perigee_cuda.so", folder);
    (void)remove(path);
    (void)rmdir(folder);
}

static void await(pid_t child, const char *name) {
    int status = -1;
    bool ended = child > 0 && waitpid(child, &status, 0) == child;
    CHECK(ended && WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: ended with %x", name,
          (unsigned)status);
}

static void run_case(size_t c) {
    make_folder();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        cases[c].run();
        _exit(check_counts.failed == 0 ? 0 : 1);
    }
    await(child, cases[c].name);
    drop_folder();
}

/* The loader reads its path when a program begins: this one begins again. */
static void run_old_driver(char *program) {
    char plugin[500], path[500];
    make_folder();
    drop_folder();
    snprintf(plugin, sizeof plugin, "%s/../../lib/perigee/perigee_cuda.so", own);
    snprintf(path, sizeof path, "%s/../old_driver", own);
    if (access(plugin, R_OK) != 0) {
        check_skip("an old driver", "the plug-in was not built");
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        setenv("LD_LIBRARY_PATH", path, 1);
        execl("/proc/self/exe", program, "old driver", (char *)NULL);
        _exit(3);
    }
    await(child, "old driver");
}

int main(int argc, char **argv) {
    if (argc > 1) {
        make_folder();
        drop_folder();
        case_old_driver();
        _exit(check_counts.failed == 0 ? 0 : 1);
    }
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) run_case(c);
    run_old_driver(argv[0]);
    return check_done();
}
