/* peer.hpp: what the programs around other libraries share: the command line, the rows, recall by
 * value, the clock, and the line that says what was measured.
 *
 * The command line is key=value words, the same for every program of this folder (ours.lua too):
 *   data=NAME base=PATH queries=PATH truth=PATH  metric=ip|l2  dtype=f32|u8  threads=N (all of them)
 *   seconds=S (a measurement lasts that long at least)  target=R  file=PATH  build=0|1
 * Each measurement is one line of key=value, between tabs. */
#ifndef PERIGEE_BENCHMARKS_PEER_HPP
#define PERIGEE_BENCHMARKS_PEER_HPP

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace peer {

constexpr size_t K = 10;
constexpr double TOLERANCE = 1e-5; /* relative, as peri_recall has it */

class Words {
  public:
    Words(int argc, char **argv) {
        for (int i = 1; i < argc; i++) {
            const std::string word = argv[i];
            const size_t sign = word.find('=');
            if (sign == std::string::npos)
                throw std::runtime_error(word + " is not key=value");
            words[word.substr(0, sign)] = word.substr(sign + 1);
        }
    }
    const std::string &text(const std::string &key) const {
        const auto found = words.find(key);
        if (found == words.end())
            throw std::runtime_error(key + "=... is missing");
        return found->second;
    }
    double number(const std::string &key) const { return std::stod(text(key)); }

  private:
    std::map<std::string, std::string> words;
};

struct Rows {
    size_t count = 0;
    size_t dim = 0;
    std::vector<float> values;

    const float *at(size_t row) const { return values.data() + row * dim; }
};

/* .fvecs and .bvecs: before each row its length, as a little-endian int32. */
template <typename T> Rows read_vecs(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    if (!in)
        throw std::runtime_error("cannot read " + path);
    Rows rows;
    int32_t dim = 0;
    std::vector<T> row;
    while (in.read(reinterpret_cast<char *>(&dim), sizeof dim)) {
        if (dim <= 0 || (rows.count > 0 && static_cast<size_t>(dim) != rows.dim))
            throw std::runtime_error(path + " has rows of several lengths");
        rows.dim = static_cast<size_t>(dim);
        row.resize(rows.dim);
        const auto bytes = static_cast<std::streamsize>(rows.dim * sizeof(T));
        if (!in.read(reinterpret_cast<char *>(row.data()), bytes))
            throw std::runtime_error(path + " ends inside a row");
        rows.values.insert(rows.values.end(), row.begin(), row.end());
        rows.count++;
    }
    return rows;
}

inline Rows read_rows(const std::string &path) {
    const bool bytes = path.size() > 6 && path.compare(path.size() - 6, 6, ".bvecs") == 0;
    return bytes ? read_vecs<uint8_t>(path) : read_vecs<float>(path);
}

/* What a program compares, and what it was told. */
struct Task {
    explicit Task(const Words &words)
        : data(words.text("data")), dtype(words.text("dtype")), file(words.text("file")),
          products(words.text("metric") == "ip"), build(words.number("build") != 0),
          threads(static_cast<int>(words.number("threads"))), seconds(words.number("seconds")),
          target(words.number("target")), base(read_rows(words.text("base"))),
          queries(read_rows(words.text("queries"))), truth(read_rows(words.text("truth"))) {
        if (truth.count != queries.count || truth.dim < K || queries.dim != base.dim)
            throw std::runtime_error("base, queries and truth do not fit each other");
    }
    std::string data, dtype, file;
    bool products, build;
    int threads;
    double seconds, target;
    Rows base, queries, truth;
};

/* Values and ids of a batch, K for each query; values as the truth has them. */
struct Found {
    explicit Found(size_t queries) : values(queries * K), ids(queries * K, -1) {}
    std::vector<float> values;
    std::vector<int64_t> ids;
};

inline double recall(const Task &task, const Found &found) {
    size_t right = 0;
    for (size_t q = 0; q < task.queries.count; q++) {
        const double worst = task.truth.at(q)[K - 1];
        const double slack = TOLERANCE * std::max(std::fabs(worst), 1e-6);
        for (size_t i = q * K; i < (q + 1) * K; i++) {
            const double value = found.values[i];
            right += found.ids[i] >= 0 &&
                     (task.products ? value >= worst - slack : value <= worst + slack);
        }
    }
    return static_cast<double>(right) / static_cast<double>(task.queries.count * K);
}

inline double now() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

/* Queries a second of whole batches, after one that warms up. */
template <typename Batch> double rate(const Task &task, Batch batch) {
    batch();
    const double began = now();
    double batches = 0, passed = 0;
    do {
        batch();
        batches++;
        passed = now() - began;
    } while (passed < task.seconds);
    return batches * static_cast<double>(task.queries.count) / passed;
}

inline void tell(const Task &task, const std::string &what, const std::string &engine,
                 const std::string &parameters, int threads, double found, const char *unit,
                 double value) {
    std::printf("what=%s\tengine=%s\tdata=%s\tn=%zu\tdim=%zu\tdtype=%s\tparameters=%s\tthreads=%d\t"
                "recall=%.4f\t%s=%.6g\n",
                what.c_str(), engine.c_str(), task.data.c_str(), task.base.count, task.base.dim,
                task.dtype.c_str(), parameters.c_str(), threads, found, unit, value);
    std::fflush(stdout);
}

}

#endif
