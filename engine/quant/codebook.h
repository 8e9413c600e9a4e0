/* codebook.h: learning the codewords of a product quantizer, all books at once.
 *
 * Lloyd's iterations where the assignment is the operation that also encodes: one run of PQ_ENCODE
 * finds the codes of every piece of every row, then each book takes the means of its pieces. Begins
 * with k-means++ (Arthur & Vassilvitskii, SODA 2007) on a part of the rows. A code without pieces
 * moves to the piece that lies farthest from its codeword, within the code of the most error: real
 * columns hold many equal pieces, so the largest code may be one that can't be split. Ends when no
 * code changes.
 *
 * Not kmeans.h book by book, whose assignment writes a label and a distance for each row and book:
 * on 40 000 SIFT rows, 25 iterations, one thread (AVX-512), CPU time is 0.74 of its for 16 x 8
 * bits, 0.50 for 64 x 8 and 0.32 for 32 x 4, at distortions within 0.6 % of each other.
 *
 * The same bits for a seed at any number of threads: a book's sums run over the rows in order. */
#ifndef PERI_QUANT_CODEBOOK_H
#define PERI_QUANT_CODEBOOK_H

#include "core/matrix.h"

typedef struct peri_codebook_training {
    peri_matrix *rows; /* f32 [m, books * pq_len], m > 0; trains at their place */
    uint32_t books;
    uint32_t pq_bits; /* 1..8 */
    uint32_t n_iters;
    uint64_t seed;
    peri_matrix *start; /* codebooks to go on from; NULL = rows drawn with the seed */
    size_t threads;
    const peri_control *control;
} peri_codebook_training;

/* codebooks f32 [books * 2^pq_bits, pq_len] at the rows' place. With fewer distinct pieces than
 * codewords the spare codewords repeat the first, which has the lower code and is taken. Rows that
 * are all of one piece each, [m * pq_dim, pq_len], and books = 1 make a codebook for all subspaces:
 * that of one cluster of codebook_kind per_cluster. */
peri_status peri_codebooks_train(const peri_codebook_training *training, peri_matrix **codebooks);

#endif
