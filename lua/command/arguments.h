/* arguments: what the command line asks for, by the rules of the standalone Lua interpreter. */
#ifndef PERI_COMMAND_ARGUMENTS_H
#define PERI_COMMAND_ARGUMENTS_H

#include <stdio.h>

/* How argv was understood.
 *
 * script  position of the script's name; `count` when there is none.
 * word    position of a word of ours (`doctor`, `--version`); 0 when there is none.
 * bad     position of the option that is wrong; 0 when all are right. */
typedef struct peri_arguments {
    char **list;
    int count;
    int script;
    int word;
    int bad;
    int interactive;
    int version;
    int execute;
    int ignore_environment;
    int help;
} peri_arguments;

/* Reads argv once, without acting on it. `-e`, `-l` and `-W` are acted on later, in their order. */
peri_arguments peri_arguments_read(int count, char **list);

/* Says which option is wrong and how the command is used. */
void peri_arguments_complain(const peri_arguments *arguments, const char *program, FILE *out);

/* The text of `--help`, in the manner of a manual page. */
void peri_arguments_help(const char *program, FILE *out);

#endif
