/* editor: reads lines from a person, with editing where there is a terminal and libedit.
 *
 * libedit's own interface (histedit.h) is used and not its imitation of readline: characters then
 * come through a function of ours, which is where Ctrl-C, a resized window and a return from Ctrl-Z
 * are met. libedit's own signal mode (EL_SIGNAL) would send signals on to the whole process group.
 *
 * While a line is read, those three signals are blocked except inside pselect, so none can slip in
 * between the look at its flag and the wait for a key. Outside of peri_editor_read the signals act
 * as before and the terminal is in its ordinary mode.
 *
 * Without a terminal, or with one that cannot move its cursor, or without libedit, lines are read
 * with getline and the prompt is printed all the same, as lua does.
 *
 * Threads: one; the flags are written by the signal handler. */
#include "editor.h"

#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <unistd.h>
#include <wchar.h>

#ifdef PERI_HAVE_LIBEDIT
#include <histedit.h>
#endif

/* Taste: about a year of lines for one person. */
#define REMEMBERED_MAX 5000

struct peri_editor {
#ifdef PERI_HAVE_LIBEDIT
    EditLine *edit;
    History *history;
    const char *prompt;
    int listed; /* the callback of Tab printed below the line */
    int inserted;
#endif
    peri_editor_complete *complete;
    void *ud;
    char *line;
    size_t line_size;
};

static volatile sig_atomic_t interrupted, resized, resumed;

static const int watched[] = { SIGINT, SIGWINCH, SIGCONT };
enum { WATCHED = sizeof watched / sizeof watched[0] };

/* What was there before a line is read, to be put back after. */
typedef struct signals_before {
    struct sigaction actions[WATCHED];
    sigset_t mask;
} signals_before;

static void watch_signals(signals_before *before, int block);
static void unwatch_signals(const signals_before *before);
static void on_signal(int number);
static peri_editor_answer read_plainly(peri_editor *editor, const char *prompt, size_t *size);
#ifdef PERI_HAVE_LIBEDIT
static void open_edit(peri_editor *editor, int environment);
static peri_editor_answer read_edited(peri_editor *editor, const char *prompt, size_t *size);
#endif

peri_editor *peri_editor_open(int environment, peri_editor_complete *complete, void *ud) {
    peri_editor *editor = calloc(1, sizeof *editor);
    if (!editor) return NULL;
    editor->complete = complete;
    editor->ud = ud;
#ifdef PERI_HAVE_LIBEDIT
    const char *terminal = getenv("TERM");
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && terminal && *terminal &&
        strcmp(terminal, "dumb") != 0)
        open_edit(editor, environment);
#else
    (void)environment;
#endif
    return editor;
}

void peri_editor_close(peri_editor *editor) {
    if (!editor) return;
#ifdef PERI_HAVE_LIBEDIT
    if (editor->history) history_end(editor->history);
    if (editor->edit) el_end(editor->edit);
#endif
    free(editor->line);
    free(editor);
}

int peri_editor_columns(void) {
    struct winsize window;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0) return window.ws_col;
    return 80;
}

peri_editor_answer peri_editor_read(peri_editor *editor, const char *prompt, const char **line,
                                    size_t *size) {
    signals_before before;
    *line = NULL;
    *size = 0;
    fflush(stdout);
    const int edits = peri_editor_edits(editor);
    watch_signals(&before, edits);
    peri_editor_answer answer;
#ifdef PERI_HAVE_LIBEDIT
    if (edits)
        answer = read_edited(editor, prompt, size);
    else
#endif
        answer = read_plainly(editor, prompt, size);
    unwatch_signals(&before);
    if (answer == PERI_EDITOR_LINE) *line = editor->line;
    return answer;
}

static peri_editor_answer read_plainly(peri_editor *editor, const char *prompt, size_t *size) {
    /* A Ctrl-C in the microseconds between the prompt and the wait for input is noticed only with
     * the next key: stdio has no way to wait for both. */
    fputs(prompt, stdout);
    fflush(stdout);
    errno = 0;
    const ssize_t got = getline(&editor->line, &editor->line_size, stdin);
    if (interrupted) {
        clearerr(stdin); /* the interrupted read left its mark */
        fputc('\n', stdout);
        return PERI_EDITOR_INTERRUPTED;
    }
    if (got < 0) return errno == ENOMEM ? PERI_EDITOR_NO_MEMORY : PERI_EDITOR_END;
    *size = (size_t)got;
    if (*size > 0 && editor->line[*size - 1] == '\n') editor->line[--*size] = '\0';
    return PERI_EDITOR_LINE;
}

static void watch_signals(signals_before *before, int block) {
    /* No SA_RESTART: a signal must end the wait for input. */
    struct sigaction action = { .sa_handler = on_signal };
    sigset_t all;
    sigemptyset(&action.sa_mask);
    sigemptyset(&all);
    interrupted = resized = resumed = 0;
    for (int i = 0; i < WATCHED; i++) sigaddset(&all, watched[i]);
    sigprocmask(SIG_BLOCK, block ? &all : NULL, &before->mask);
    for (int i = 0; i < WATCHED; i++) {
        /* Lines that are not edited have no use for the other two, which would end the read. */
        if (block || watched[i] == SIGINT)
            sigaction(watched[i], &action, &before->actions[i]);
        else
            sigaction(watched[i], NULL, &before->actions[i]);
    }
}

static void unwatch_signals(const signals_before *before) {
    for (int i = 0; i < WATCHED; i++) sigaction(watched[i], &before->actions[i], NULL);
    sigprocmask(SIG_SETMASK, &before->mask, NULL);
}

static void on_signal(int number) {
    if (number == SIGINT) interrupted = 1;
    if (number == SIGWINCH) resized = 1;
    if (number == SIGCONT) resumed = 1;
}

#ifndef PERI_HAVE_LIBEDIT

int peri_editor_edits(const peri_editor *editor) {
    (void)editor;
    return 0;
}

void peri_editor_remember(peri_editor *editor, const char *line) {
    (void)editor;
    (void)line;
}

void peri_editor_insert(peri_editor *editor, const char *text) {
    (void)editor;
    (void)text;
}

void peri_editor_list(peri_editor *editor, const char *text) {
    (void)editor;
    (void)text;
}

#else

static char *tell_prompt(EditLine *edit);
static int next_key(EditLine *edit, wchar_t *key);
static int wait_for_key(EditLine *edit);
static unsigned char on_tab(EditLine *edit, int key);
static void bind_keys(EditLine *edit);

int peri_editor_edits(const peri_editor *editor) { return editor->edit != NULL; }

static void open_edit(peri_editor *editor, int environment) {
    /* libedit reads characters by the locale; where that knows only ASCII, UTF-8 is no worse. */
    setlocale(LC_CTYPE, environment ? "" : "C.UTF-8");
    if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");

    EditLine *edit = el_init("perigee", stdin, stdout, stderr);
    History *lines = history_init();
    if (!edit || !lines) {
        if (edit) el_end(edit);
        if (lines) history_end(lines);
        return;
    }
    HistEvent event;
    history(lines, &event, H_SETSIZE, REMEMBERED_MAX);
    history(lines, &event, H_SETUNIQUE, 1);
    editor->edit = edit;
    editor->history = lines;
    el_set(edit, EL_CLIENTDATA, editor);
    el_set(edit, EL_PROMPT, tell_prompt);
    el_set(edit, EL_GETCFN, next_key);
    el_set(edit, EL_HIST, history, lines);
    el_set(edit, EL_ADDFN, "perigee-complete", "Complete a name, a method or a file", on_tab);
    bind_keys(edit);
    if (environment) el_source(edit, NULL);
}

static void bind_keys(EditLine *edit) {
    static const char *const keys[][2] = {
        { "^I", "perigee-complete" },        { "^R", "em-inc-search-prev" },
        { "\\e[3~", "ed-delete-next-char" }, { "\\e[1~", "ed-move-to-beg" },
        { "\\e[4~", "ed-move-to-end" },      { "\\e[H", "ed-move-to-beg" },
        { "\\e[F", "ed-move-to-end" },       { "\\e[1;5C", "em-next-word" },
        { "\\e[1;5D", "ed-prev-word" },
    };
    el_set(edit, EL_EDITOR, "emacs");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        el_set(edit, EL_BIND, keys[i][0], keys[i][1], NULL);
}

static peri_editor_answer read_edited(peri_editor *editor, const char *prompt, size_t *size) {
    int count = 0;
    editor->prompt = prompt;
    /* libedit would change the mode after it has shown the prompt, and a Ctrl-D that comes in
     * between would be lost in the ordinary mode. */
    el_set(editor->edit, EL_PREP_TERM, 1);
    const char *text = el_gets(editor->edit, &count);
    if (interrupted) { /* el_gets then answers what had been typed */
        fputs("^C\n", stdout);
        return PERI_EDITOR_INTERRUPTED;
    }
    if (!text || count <= 0) {
        fputc('\n', stdout);
        return PERI_EDITOR_END;
    }
    *size = (size_t)count;
    while (*size > 0 && (text[*size - 1] == '\n' || text[*size - 1] == '\r')) --*size;
    char *copy = realloc(editor->line, *size + 1);
    if (!copy) return PERI_EDITOR_NO_MEMORY;
    memcpy(copy, text, *size);
    copy[*size] = '\0';
    editor->line = copy;
    editor->line_size = *size + 1;
    return PERI_EDITOR_LINE;
}

void peri_editor_remember(peri_editor *editor, const char *line) {
    HistEvent event;
    if (editor->history) history(editor->history, &event, H_ENTER, line);
}

void peri_editor_insert(peri_editor *editor, const char *text) {
    if (*text && el_insertstr(editor->edit, text) == 0) editor->inserted = 1;
}

void peri_editor_list(peri_editor *editor, const char *text) {
    printf("\n%s\n", text);
    fflush(stdout);
    editor->listed = 1;
}

static char *tell_prompt(EditLine *edit) {
    peri_editor *editor = NULL;
    el_get(edit, EL_CLIENTDATA, &editor);
    return (char *)(size_t)editor->prompt; /* libedit reads it only */
}

/* One character of the terminal: 1, or 0 at its end, or -1 to give the line up. */
static int next_key(EditLine *edit, wchar_t *key) {
    mbstate_t state;
    memset(&state, 0, sizeof state);
    for (;;) {
        char byte;
        if (wait_for_key(edit) < 0) return -1;
        const ssize_t got = read(STDIN_FILENO, &byte, 1);
        if (got == 0) return 0;
        if (got < 0 && errno != EINTR && errno != EAGAIN) return -1;
        if (got < 0) continue;
        const size_t used = mbrtowc(key, &byte, 1, &state);
        if (used == (size_t)-2) continue; /* the character goes on */
        if (used == (size_t)-1) *key = 0xFFFD;
        return 1;
    }
}

/* Waits until there is input, and redraws the line when the terminal has changed meanwhile. */
static int wait_for_key(EditLine *edit) {
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    for (int i = 0; i < WATCHED; i++) sigdelset(&mask, watched[i]);
    for (;;) {
        fd_set input;
        FD_ZERO(&input);
        FD_SET(STDIN_FILENO, &input);
        const int ready = pselect(STDIN_FILENO + 1, &input, NULL, NULL, NULL, &mask);
        const int error = errno;
        if (interrupted) return -1;
        if (resumed) { /* the shell gave the terminal back in its ordinary mode */
            el_set(edit, EL_PREP_TERM, 0);
            el_set(edit, EL_PREP_TERM, 1);
        }
        if (resized) el_resize(edit);
        if (resumed || resized) el_set(edit, EL_REFRESH);
        resumed = resized = 0;
        if (ready > 0) return 0;
        if (ready < 0 && error != EINTR) return -1;
    }
}

static unsigned char on_tab(EditLine *edit, int key) {
    (void)key;
    peri_editor *editor = NULL;
    el_get(edit, EL_CLIENTDATA, &editor);
    /* When more input waits already, this is a paste, and its tabs are part of the text. */
    int waiting = 0;
    if (ioctl(STDIN_FILENO, FIONREAD, &waiting) == 0 && waiting > 0) {
        el_insertstr(edit, "\t");
        return CC_REFRESH;
    }
    const LineInfo *line = el_line(edit);
    editor->listed = 0;
    editor->inserted = 0;
    editor->complete(editor->ud, editor, line->buffer, (size_t)(line->cursor - line->buffer));
    if (editor->listed) return CC_REDISPLAY;
    return editor->inserted ? CC_REFRESH : CC_NORM;
}

#endif
