/* arguments: what the command line asks for, by the rules of the standalone Lua interpreter.
 *
 * The options, their order and the complaints are those of lua 5.4, so that `perigee` can stand in
 * for `lua5.4` in any script. Two things are ours. `--help` and `--version`, which lua refuses,
 * are answered; and a script name that is a word of ours (`doctor`) runs that word, unless a file
 * of this name lies there: a script that worked yesterday is not shadowed by a new word. */
#include "arguments.h"

#include <string.h>
#include <sys/stat.h>

static int read_option(peri_arguments *a, int at);
static int is_word(const char *name);
static int is_file(const char *name);

peri_arguments peri_arguments_read(int count, char **list) {
    peri_arguments a = { .list = list, .count = count, .script = count };
    int at = 1;
    while (at < count && list[at][0] == '-') {
        const char *option = list[at];
        if (strcmp(option, "-") == 0) break;
        if (strcmp(option, "--") == 0) {
            at++;
            break;
        }
        if (strcmp(option, "--version") == 0) {
            a.word = at;
            a.script = at;
            return a;
        }
        const int taken = read_option(&a, at);
        if (taken == 0) {
            a.bad = at;
            return a;
        }
        at += taken;
    }
    if (at >= count) return a;
    a.script = at;
    /* After "--" a name is a file's, whatever it is. */
    if (strcmp(list[at - 1], "--") != 0 && is_word(list[at]) && !is_file(list[at])) a.word = at;
    return a;
}

/* Takes note of one option; answers how many arguments it used, 0 when it is wrong. */
static int read_option(peri_arguments *a, int at) {
    const char *option = a->list[at];
    const int alone = option[2] == '\0';
    switch (option[1]) {
    case '-': a->help |= strcmp(option, "--help") == 0; return strcmp(option, "--help") == 0;
    case 'E': a->ignore_environment |= alone; return alone;
    case 'i': a->interactive |= alone; return alone;
    case 'v': a->version |= alone; return alone;
    case 'W': return alone;
    case 'e': a->execute = 1; break;
    case 'l': break;
    default: return 0;
    }
    if (!alone) return 1;
    const char *value = at + 1 < a->count ? a->list[at + 1] : NULL;
    return value && value[0] != '-' ? 2 : 0;
}

static int is_word(const char *name) { return strcmp(name, "doctor") == 0; }

static int is_file(const char *name) {
    struct stat found;
    return stat(name, &found) == 0 && !S_ISDIR(found.st_mode);
}

static const char options_text[] = "Available options are:\n"
                                   "  -e stat   execute string 'stat'\n"
                                   "  -i        enter interactive mode after executing 'script'\n"
                                   "  -l mod    require library 'mod' into global 'mod'\n"
                                   "  -l g=mod  require library 'mod' into global 'g'\n"
                                   "  -v        show version information\n"
                                   "  -E        ignore environment variables\n"
                                   "  -W        turn warnings on\n"
                                   "  --        stop handling options\n"
                                   "  -         stop handling options and execute stdin\n";

void peri_arguments_complain(const peri_arguments *arguments, const char *program, FILE *out) {
    const char *option = arguments->list[arguments->bad];
    const int wants_value = option[1] == 'e' || option[1] == 'l';
    fprintf(out, wants_value ? "%s: '%s' needs argument\n" : "%s: unrecognized option '%s'\n",
            program, option);
    fprintf(out, "usage: %s [options] [script [args]]\n%s", program, options_text);
}

void peri_arguments_help(const char *program, FILE *out) {
    fprintf(out,
            "perigee - vector search in Lua: a Lua 5.4 interpreter with the module at hand\n\n"
            "usage: %s [options] [script [args]]\n"
            "       %s [options] doctor\n"
            "       %s --help | --version\n\n%s",
            program, program, program, options_text);
    fputs("  --help    show this text\n"
          "  --version show the version of Perigee\n\n"
          "Words (a file of the same name wins; ./doctor or -- doctor always is the file):\n"
          "  doctor    show devices, instruction sets and libraries, what is missing and why\n\n"
          "With no script and a terminal, the prompt opens: `pg` is there, values print\n"
          "themselves, `help(x)` explains, Tab completes names, methods and files, Up and\n"
          "Ctrl-R find earlier lines, Ctrl-C stops what runs or clears the line, Ctrl-D leaves.\n"
          "With no script and no terminal, standard input is run as a script.\n\n"
          "Files:\n"
          "  ~/.config/perigee/init.lua        run when the prompt opens\n"
          "  ~/.local/state/perigee/history    the lines typed at the prompt\n"
          "  ~/.editrc                         key bindings (libedit)\n\n"
          "Environment (none of it with -E):\n"
          "  LUA_INIT_5_4, LUA_INIT            Lua code, or @file, run first\n"
          "  LUA_PATH_5_4, LUA_CPATH_5_4, ...  where require looks, after Perigee's own folders\n"
          "  XDG_CONFIG_HOME, XDG_STATE_HOME   instead of ~/.config and ~/.local/state\n",
          out);
}
