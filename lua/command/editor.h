/* editor: reads lines from a person, with editing where there is a terminal and libedit. */
#ifndef PERI_COMMAND_EDITOR_H
#define PERI_COMMAND_EDITOR_H

#include <stddef.h>

typedef struct peri_editor peri_editor;

/* Called when Tab is pressed with the text before the cursor. It answers through
 * peri_editor_insert and peri_editor_list, and may not raise. */
typedef void peri_editor_complete(void *ud, peri_editor *editor, const char *text, size_t size);

typedef enum peri_editor_answer {
    PERI_EDITOR_LINE,
    PERI_EDITOR_END,         /* end of input: Ctrl-D on an empty line */
    PERI_EDITOR_INTERRUPTED, /* Ctrl-C: the line is dropped */
    PERI_EDITOR_NO_MEMORY
} peri_editor_answer;

/* Opens the editor on standard input and output; NULL when memory is short.
 *
 * environment  when 0, the person's key bindings (~/.editrc) are not read. */
peri_editor *peri_editor_open(int environment, peri_editor_complete *complete, void *ud);

void peri_editor_close(peri_editor *editor);

/* Whether lines can be edited; when not, they are read as they come. */
int peri_editor_edits(const peri_editor *editor);

/* Width of the terminal in columns; 80 when it does not say. */
int peri_editor_columns(void);

/* Reads one line, without its newline. `*line` belongs to the editor until the next call. */
peri_editor_answer peri_editor_read(peri_editor *editor, const char *prompt, const char **line,
                                    size_t *size);

/* Adds a line to those that Up brings back. */
void peri_editor_remember(peri_editor *editor, const char *line);

/* For the callback of Tab: puts text at the cursor. */
void peri_editor_insert(peri_editor *editor, const char *text);

/* For the callback of Tab: shows text below the line, then the line again. */
void peri_editor_list(peri_editor *editor, const char *text);

#endif
