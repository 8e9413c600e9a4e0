/* faiss_peer: stock FAISS, asked by measure.lua in the way that peer.hpp says.
 *
 *     do=build  factory=STRING               do=search  PARAMETER=VALUE, such as nprobe=8
 *
 * factory is what faiss::index_factory reads; parameters are those of faiss::ParameterSpace. FAISS
 * takes matrix products from the BLAS and the rest from OpenMP; both are set to the threads asked
 * for. bytes: of the index as it is written to a file. */
#include <faiss/AutoTune.h>
#include <faiss/Index.h>
#include <faiss/impl/io.h>
#include <faiss/index_factory.h>
#include <faiss/index_io.h>
#include <map>
#include <memory>
#include <omp.h>

#include "peer.hpp"

extern "C" void openblas_set_num_threads(int threads);

namespace {

/* Counts what is written to it. */
struct Counter : faiss::IOWriter {
    size_t bytes = 0;
    size_t operator()(const void *, size_t size, size_t count) override {
        bytes += size * count;
        return count;
    }
};

void set_threads(int threads) {
    omp_set_num_threads(threads);
    openblas_set_num_threads(threads);
}

class Faiss : public peer::Engine {
  public:
    using Engine::Engine;

    peer::Built build(const peer::Words &asked) override {
        set_threads(static_cast<int>(asked.count("threads")));
        const auto count = static_cast<int64_t>(task.base.count);
        std::unique_ptr<faiss::Index> &index = indexes[asked.text("name")];
        index.reset();
        const double began = peer::now();
        index.reset(
            faiss::index_factory(static_cast<int>(task.base.dim), asked.text("factory").c_str(),
                                 task.products ? faiss::METRIC_INNER_PRODUCT : faiss::METRIC_L2));
        index->train(count, task.base.values.data());
        index->add(count, task.base.values.data());
        const double seconds = peer::now() - began;
        Counter counter;
        faiss::write_index(index.get(), &counter);
        return { seconds, counter.bytes };
    }

    void prepare(const peer::Words &asked) override {
        ready = indexes.at(asked.text("name")).get();
        for (const auto &word : asked.all())
            if (!is_ours(word.first))
                faiss::ParameterSpace().set_index_parameter(ready, word.first,
                                                            std::stod(word.second));
    }

    void search(size_t k, int threads, peer::Found &found) override {
        set_threads(threads);
        ready->search(static_cast<int64_t>(task.queries.count), task.queries.values.data(),
                      static_cast<int64_t>(k), found.values.data(), found.ids.data());
    }

  private:
    static bool is_ours(const std::string &key) {
        for (const char *word : { "do", "name", "k", "threads", "seconds" })
            if (key == word) return true;
        return false;
    }

    std::map<std::string, std::unique_ptr<faiss::Index>> indexes;
    faiss::Index *ready = nullptr;
};

} // namespace

int main(int argc, char **argv) {
    try {
        const peer::Task task(peer::words_of(argc, argv));
        Faiss engine(task);
        peer::converse(engine);
    } catch (const std::exception &e) {
        std::fprintf(stderr, "faiss_peer: %s\n", e.what());
        return 1;
    }
    return 0;
}
