/* hnswlib_peer: what stock hnswlib reaches: build time, and queries a second at a recall.
 *
 * M = 16 and ef_construction = 200, the values most comparisons use. Compiled with -march=native,
 * since its header takes the instructions that the compiler is allowed. Elements are added and
 * queries are answered by OpenMP threads. peer.hpp says what the command line is; with build=0 the
 * index is read from `file`, where build=1 left it. */
#include <hnswlib/hnswlib.h>
#include <memory>
#include <omp.h>

#include "peer.hpp"

namespace {

constexpr size_t M = 16;
constexpr size_t EF_CONSTRUCTION = 200;
constexpr size_t EF_MAX = 4096;
constexpr size_t EF_OF_BUILD = 100; /* where the recall of a build is told */

template <typename Element> std::vector<Element> elements_of(const peer::Rows &rows) {
    return std::vector<Element>(rows.values.begin(), rows.values.end());
}

/* Element: of a vector. Distance: what the space computes. */
template <typename Element, typename Distance> class Peer {
  public:
    Peer(const peer::Task &task_given, hnswlib::SpaceInterface<Distance> &space_given)
        : task(task_given), space(space_given), base(elements_of<Element>(task.base)),
          queries(elements_of<Element>(task.queries)), found(task.queries.count) {}

    void run();

  private:
    void build();
    void search(size_t ef, int threads);
    size_t smallest_ef();
    bool reaches(size_t ef) {
        search(ef, task.threads);
        return peer::recall(task, found) >= task.target;
    }

    const peer::Task &task;
    hnswlib::SpaceInterface<Distance> &space;
    std::vector<Element> base, queries;
    peer::Found found;
    std::unique_ptr<hnswlib::HierarchicalNSW<Distance>> index;
};

template <typename Element, typename Distance> void Peer<Element, Distance>::run() {
    if (task.build)
        build();
    else
        index = std::make_unique<hnswlib::HierarchicalNSW<Distance>>(&space, task.file);
    const size_t ef = smallest_ef();
    const std::string parameters = "M=16 ef_construction=200 ef=" + std::to_string(ef);
    for (const int threads : { 1, task.threads }) {
        const double queries_s = peer::rate(task, [&] { search(ef, threads); });
        peer::tell(task, "graph", "hnswlib", parameters, threads, peer::recall(task, found), "qps",
                   queries_s);
        if (task.threads == 1) break;
    }
}

template <typename Element, typename Distance> void Peer<Element, Distance>::build() {
    const double began = peer::now();
    index = std::make_unique<hnswlib::HierarchicalNSW<Distance>>(&space, task.base.count, M,
                                                                 EF_CONSTRUCTION);
    index->addPoint(base.data(), 0);
    const auto count = static_cast<int64_t>(task.base.count);
#pragma omp parallel for schedule(dynamic, 16) num_threads(task.threads)
    for (int64_t row = 1; row < count; row++)
        index->addPoint(base.data() + static_cast<size_t>(row) * task.base.dim,
                        static_cast<size_t>(row));
    const double seconds = peer::now() - began;
    search(EF_OF_BUILD, task.threads);
    peer::tell(task, "build", "hnswlib", "M=16 ef_construction=200", task.threads,
               peer::recall(task, found), "seconds", seconds);
    index->saveIndex(task.file);
}

template <typename Element, typename Distance>
void Peer<Element, Distance>::search(size_t ef, int threads) {
    index->setEf(ef);
    const auto count = static_cast<int64_t>(task.queries.count);
#pragma omp parallel for schedule(dynamic, 8) num_threads(threads)
    for (int64_t q = 0; q < count; q++) {
        const auto query = static_cast<size_t>(q);
        auto hits = index->searchKnn(queries.data() + query * task.base.dim, peer::K);
        std::fill_n(found.ids.begin() + q * static_cast<int64_t>(peer::K), peer::K, -1);
        for (size_t i = query * peer::K + hits.size(); !hits.empty(); hits.pop()) {
            i--;
            const auto distance = static_cast<float>(hits.top().first);
            found.values[i] = task.products ? 1 - distance : distance;
            found.ids[i] = static_cast<int64_t>(hits.top().second);
        }
    }
}

/* The smallest ef that reaches the target, or the most that is tried. */
template <typename Element, typename Distance> size_t Peer<Element, Distance>::smallest_ef() {
    size_t high = peer::K;
    while (high < EF_MAX && !reaches(high)) high *= 2;
    size_t low = high == peer::K ? high : high / 2 + 1;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (reaches(middle))
            high = middle;
        else
            low = middle + 1;
    }
    return high;
}

} // namespace

int main(int argc, char **argv) {
    try {
        const peer::Task task(peer::Words(argc, argv));
        if (task.dtype == "u8") {
            hnswlib::L2SpaceI space(task.base.dim);
            Peer<uint8_t, int>(task, space).run();
        } else if (task.products) {
            hnswlib::InnerProductSpace space(task.base.dim);
            Peer<float, float>(task, space).run();
        } else {
            hnswlib::L2Space space(task.base.dim);
            Peer<float, float>(task, space).run();
        }
    } catch (const std::exception &e) {
        std::fprintf(stderr, "hnswlib_peer: %s\n", e.what());
        return 1;
    }
    return 0;
}
