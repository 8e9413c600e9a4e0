/* faiss_peer: what FAISS's exact index reaches: queries a second of IndexFlat, on OpenBLAS.
 *
 * FAISS takes the matrix product from the BLAS and selects with OpenMP threads; both are set to the
 * threads asked for. peer.hpp says what the command line is; `file` and `build` mean nothing. */
#include <faiss/IndexFlat.h>
#include <omp.h>

#include "peer.hpp"

extern "C" void openblas_set_num_threads(int threads);

int main(int argc, char **argv) {
    try {
        const peer::Task task(peer::Words(argc, argv));
        faiss::IndexFlat index(static_cast<int64_t>(task.base.dim),
                               task.products ? faiss::METRIC_INNER_PRODUCT : faiss::METRIC_L2);
        index.add(static_cast<int64_t>(task.base.count), task.base.values.data());
        peer::Found found(task.queries.count);
        for (const int threads : { 1, task.threads }) {
            omp_set_num_threads(threads);
            openblas_set_num_threads(threads);
            const double queries_s = peer::rate(task, [&] {
                index.search(static_cast<int64_t>(task.queries.count), task.queries.values.data(),
                             static_cast<int64_t>(peer::K), found.values.data(), found.ids.data());
            });
            peer::tell(task, "flat", "faiss", "IndexFlat", threads, peer::recall(task, found),
                       "qps", queries_s);
            if (task.threads == 1) break;
        }
    } catch (const std::exception &e) {
        std::fprintf(stderr, "faiss_peer: %s\n", e.what());
        return 1;
    }
    return 0;
}
