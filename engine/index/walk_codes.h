/* walk_codes.h: the codes that walks of a graph kind measure by in place of the rows; the best of a
 * walk are ranked again by the rows.
 *
 * sq8: 8 bits an element (scalar quantization), a quarter of the bytes of f32 rows. Two sections
 * more: "codes" u8 [n, dim rounded up to 32] and "code_scale" f32 [3, dim]: low, step and scale of
 * a column (peri_codes_view).
 *
 * rabitq1, rabitq2, rabitq4: RaBitQ codes of so many bits. Sections: "codes" u8 [n, code and
 * factors] and "code_frame" f32 [5, D]: the center and the signs of the rotation; with one bit also
 * "code_links" u8 [n, block], the codes of a row's links beside them, which is made of the others
 * and not saved.
 *
 * On a device that is not the host's, walks measure the rows: codes are made, kept and saved there,
 * not used. */
#ifndef PERI_INDEX_WALK_CODES_H
#define PERI_INDEX_WALK_CODES_H

#include "index/index.h"

typedef enum peri_walk_codes {
    PERI_WALK_CODES_AUTO = 0,
    PERI_WALK_CODES_NONE = 1,
    PERI_WALK_CODES_SQ8 = 2,
    PERI_WALK_CODES_RABITQ1 = 3,
    PERI_WALK_CODES_RABITQ2 = 4,
    PERI_WALK_CODES_RABITQ4 = 5,
} peri_walk_codes;

#define PERI_WALK_CODES_CHOICES "auto|none|sq8|rabitq1|rabitq2|rabitq4"
#define PERI_WALK_CODES_MAX 5

/* The names of the sections that are saved. */
#define PERI_WALK_CODES_SECTIONS "codes", "code_scale", "code_frame"

/* The row of a kind's build and saved tables. */
#define PERI_WALK_CODES_PARAM(X, S)                                                                \
    X(S, CHOICE, codes, 0, 0, PERI_WALK_CODES_MAX, PERI_WALK_CODES_CHOICES,                        \
      "sq8 for f32 and f16 rows of 128 bytes or more, 1 MiB of them, that 8 bits tell apart",      \
      "what walks measure by in place of the rows: sq8 keeps dim bytes a row more; rabitq1, 2, 4 " \
      "keep the codes of a row's links beside them, which is fastest and takes much memory")

/* The row of a kind's search table. */
#define PERI_WALK_RERANK_PARAM(X, S)                                                               \
    X(S, INT, rerank, 0, 0, 16384, NULL, "all rows that the walk keeps",                           \
      "with codes: rows ranked by their own distances in the end; at least k")

/* What the sections take, for the kind's `memory`: a Lua expression; of `degree` links a row. */
#define PERI_WALK_CODES_MEMORY(degree)                                                             \
    "(codes == 'sq8' and 32 * math.ceil(dim / 32) or codes:match('rabitq') and "                   \
    "(4 * codes:sub(7) * math.ceil(dim / 32) + 8) * "                                              \
    "(codes == 'rabitq1' and 1 + 16 * math.ceil(" degree " / 16) or 1) or 0)"

/* Makes the sections for the index's rows, lengths and graph, and says in `choice`, which holds
 * what was asked, what was chosen. Reads the rows twice; needs dim floats a thread.
 * PERI_E_ARGUMENT: sq8 for rows that are bytes. Of packed codes each row is encoded, some
 * microseconds of 128 dimensions. */
peri_status peri_walk_codes_make(peri_index *index, int64_t *choice, size_t threads,
                                 const peri_control *control);

/* Makes "code_links" anew for the index's graph and codes; nothing but with rabitq1. Whoever
 * changes the graph calls it; make, share and adopt do it themselves. */
peri_status peri_walk_codes_link(peri_index *index, int64_t choice, size_t threads,
                                 const peri_control *control);

/* Whether a section is made of others, so that it is neither saved nor moved. */
bool peri_walk_codes_derived(const char *section);

/* Takes the sections of `from` over, which has the same rows. */
peri_status peri_walk_codes_share(peri_index *index, const peri_index *from, int64_t choice);

/* The sections of `old` with codes of the new rows behind them, by the old scale; the graph comes
 * later. */
peri_status peri_walk_codes_extend(const peri_index *old, peri_index *next,
                                   const peri_growth *growth, int64_t choice);

/* Whether sections that were opened are what `choice` says; automatic means none here.
 * PERI_E_CORRUPT. */
peri_status peri_walk_codes_adopt(peri_index *index, int64_t *choice);

/* Fills codes and rerank of an operation whose list is set, and widens the list by a few rows, so
 * that a walk by codes finds as much as one by the rows. */
void peri_walk_codes_fill(const peri_index *index, int64_t rerank, peri_op_graph_search *op);

#endif
