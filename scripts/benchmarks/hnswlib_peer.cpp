/* hnswlib_peer: stock hnswlib, asked by measure.lua in the way that peer.hpp says.
 *
 *     do=build  M=N ef_construction=N        do=search  ef=N
 *
 * Compiled with -march=native, since its header takes the instructions that the compiler is
 * allowed. Elements are added and queries are answered by OpenMP threads. */
#include <hnswlib/hnswlib.h>
#include <map>
#include <memory>
#include <omp.h>

#include "peer.hpp"

namespace {

template <typename Element> std::vector<Element> elements_of(const peer::Rows &rows) {
    return std::vector<Element>(rows.values.begin(), rows.values.end());
}

/* Element: of a vector. Distance: what the space computes. */
template <typename Element, typename Distance> class Hnswlib : public peer::Engine {
  public:
    using Index = hnswlib::HierarchicalNSW<Distance>;

    Hnswlib(const peer::Task &given, hnswlib::SpaceInterface<Distance> &space_given)
        : Engine(given), space(space_given), base(elements_of<Element>(given.base)),
          queries(elements_of<Element>(given.queries)) {}

    peer::Built build(const peer::Words &asked) override;
    void prepare(const peer::Words &asked) override {
        ready = indexes.at(asked.text("name")).get();
        ready->setEf(asked.count("ef"));
    }
    void search(size_t k, int threads, peer::Found &found) override;

  private:
    void put(size_t query, size_t k, peer::Found &found) const;

    hnswlib::SpaceInterface<Distance> &space;
    std::vector<Element> base, queries;
    std::map<std::string, std::unique_ptr<Index>> indexes;
    Index *ready = nullptr;
};

template <typename Element, typename Distance>
peer::Built Hnswlib<Element, Distance>::build(const peer::Words &asked) {
    const auto count = static_cast<int64_t>(task.base.count);
    const size_t dim = task.base.dim;
    std::unique_ptr<Index> &index = indexes[asked.text("name")];
    index.reset();
    const double began = peer::now();
    index = std::make_unique<Index>(&space, task.base.count, asked.count("M"),
                                    asked.count("ef_construction"));
    index->addPoint(base.data(), 0);
#pragma omp parallel for schedule(dynamic, 16)                                                     \
    num_threads(static_cast <int>(asked.count("threads")))
    for (int64_t row = 1; row < count; row++)
        index->addPoint(base.data() + static_cast<size_t>(row) * dim, static_cast<size_t>(row));
    const double seconds = peer::now() - began;
    size_t bytes = index->size_data_per_element_ * task.base.count;
    for (size_t row = 0; row < task.base.count; row++)
        bytes += sizeof(void *) +
                 static_cast<size_t>(index->element_levels_[row]) * index->size_links_per_element_;
    return { seconds, bytes };
}

template <typename Element, typename Distance>
void Hnswlib<Element, Distance>::search(size_t k, int threads, peer::Found &found) {
    const auto count = static_cast<int64_t>(task.queries.count);
#pragma omp parallel for schedule(dynamic, 8) num_threads(threads)
    for (int64_t q = 0; q < count; q++) put(static_cast<size_t>(q), k, found);
}

template <typename Element, typename Distance>
void Hnswlib<Element, Distance>::put(size_t query, size_t k, peer::Found &found) const {
    auto hits = ready->searchKnn(queries.data() + query * task.base.dim, k);
    std::fill_n(found.ids.data() + query * k, k, -1);
    for (size_t i = query * k + hits.size(); !hits.empty(); hits.pop()) {
        i--;
        const auto distance = static_cast<float>(hits.top().first);
        found.values[i] = task.products ? 1 - distance : distance;
        found.ids[i] = static_cast<int64_t>(hits.top().second);
    }
}

template <typename Element, typename Distance>
void run(const peer::Task &task, hnswlib::SpaceInterface<Distance> &&space) {
    Hnswlib<Element, Distance> engine(task, space);
    peer::converse(engine);
}

} // namespace

int main(int argc, char **argv) {
    try {
        const peer::Task task(peer::words_of(argc, argv));
        if (task.dtype == "u8")
            run<uint8_t, int>(task, hnswlib::L2SpaceI(task.base.dim));
        else if (task.products)
            run<float, float>(task, hnswlib::InnerProductSpace(task.base.dim));
        else
            run<float, float>(task, hnswlib::L2Space(task.base.dim));
    } catch (const std::exception &e) {
        std::fprintf(stderr, "hnswlib_peer: %s\n", e.what());
        return 1;
    }
    return 0;
}
