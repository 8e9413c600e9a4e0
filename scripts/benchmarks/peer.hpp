/* peer.hpp: what the programs around other libraries share: the rows, recall by value, the clock,
 * and the conversation with the program that measures (measure.lua).
 *
 * The command line is key=value words, the same for every program of this folder (ours.lua too):
 *
 *     base=PATH queries=PATH truth=PATH (values, nearest first)  metric=ip|l2  dtype=f32|u8
 *
 * Then each line that is read is one question, of key=value words between tabs, and is answered by
 * one line of the same kind. What decides (which parameter reaches a recall, what is compared with
 * what) is asked of all programs alike, and is none of their business.
 *
 *     do=build  name=NAME threads=N PARAMETER=VALUE...
 *         seconds=S bytes=B              and NAME is an index
 *     do=search name=NAME k=N threads=N seconds=S PARAMETER=VALUE...
 *         qps=Q [recall=R]               whole batches for S seconds at least; S = 0 is one batch
 *     do=stop
 *
 * Anything that goes wrong is answered by error=TEXT.
 *
 * recall: the share of the first k that are as near as the truth's k-th, by the rows themselves: the
 * distances that an index of codes answers with are not theirs. Left out where the truth has fewer
 * than k. */
#ifndef PERIGEE_BENCHMARKS_PEER_HPP
#define PERIGEE_BENCHMARKS_PEER_HPP

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace peer {

constexpr double TOLERANCE = 1e-5; /* relative, as peri_recall has it */

class Words {
  public:
    void add(const std::string &word) {
        const size_t sign = word.find('=');
        if (sign == std::string::npos) throw std::runtime_error(word + " is not key=value");
        words[word.substr(0, sign)] = word.substr(sign + 1);
    }
    const std::string &text(const std::string &key) const {
        const auto found = words.find(key);
        if (found == words.end()) throw std::runtime_error(key + "=... is missing");
        return found->second;
    }
    double number(const std::string &key) const { return std::stod(text(key)); }
    size_t count(const std::string &key) const { return std::stoul(text(key)); }
    const std::map<std::string, std::string> &all() const { return words; }

  private:
    std::map<std::string, std::string> words;
};

inline Words words_of(int argc, char **argv) {
    Words words;
    for (int i = 1; i < argc; i++) words.add(argv[i]);
    return words;
}

inline Words words_of(const std::string &line) {
    Words words;
    std::istringstream in(line);
    for (std::string word; std::getline(in, word, '\t');) words.add(word);
    return words;
}

/* ---- rows --------------------------------------------------------------------------------- */

struct Rows {
    size_t count = 0;
    size_t dim = 0;
    std::vector<float> values;

    const float *at(size_t row) const { return values.data() + row * dim; }
};

inline std::ifstream open_file(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw std::runtime_error("cannot read " + path);
    return in;
}

/* .fvecs and .bvecs: before each row its length, as a little-endian int32. */
template <typename T> Rows read_vecs(const std::string &path) {
    std::ifstream in = open_file(path);
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

/* .fbin: the numbers of rows and columns, as little-endian uint32, then the rows. */
inline Rows read_fbin(const std::string &path) {
    std::ifstream in = open_file(path);
    uint32_t head[2] = { 0, 0 };
    in.read(reinterpret_cast<char *>(head), sizeof head);
    Rows rows;
    rows.count = head[0];
    rows.dim = head[1];
    rows.values.resize(rows.count * rows.dim);
    if (!in.read(reinterpret_cast<char *>(rows.values.data()),
                 static_cast<std::streamsize>(rows.values.size() * sizeof(float))))
        throw std::runtime_error(path + " ends inside its rows");
    return rows;
}

inline bool ends_with(const std::string &text, const std::string &end) {
    return text.size() >= end.size() &&
           text.compare(text.size() - end.size(), end.size(), end) == 0;
}

inline Rows read_rows(const std::string &path) {
    if (ends_with(path, ".fbin")) return read_fbin(path);
    return ends_with(path, ".bvecs") ? read_vecs<uint8_t>(path) : read_vecs<float>(path);
}

/* ---- what is measured --------------------------------------------------------------------- */

/* What a program was started for. */
struct Task {
    explicit Task(const Words &words)
        : dtype(words.text("dtype")), products(words.text("metric") == "ip"),
          base(read_rows(words.text("base"))), queries(read_rows(words.text("queries"))),
          truth(read_rows(words.text("truth"))) {
        if (truth.count != queries.count || queries.dim != base.dim)
            throw std::runtime_error("base, queries and truth do not fit each other");
    }
    std::string dtype;
    bool products;
    Rows base, queries, truth;
};

/* Values and ids of a batch, k for each query; the values are an engine's own. */
struct Found {
    Found(size_t queries, size_t wanted)
        : k(wanted), values(queries * wanted), ids(queries * wanted, -1) {}
    size_t k;
    std::vector<float> values;
    std::vector<int64_t> ids;
};

/* Of a query and a row, as the truth has it. */
inline double value_of(const Task &task, size_t query, size_t row) {
    const float *a = task.queries.at(query), *b = task.base.at(row);
    double sum = 0;
    for (size_t i = 0; i < task.base.dim; i++) {
        const double difference = static_cast<double>(a[i]) - b[i];
        sum += task.products ? static_cast<double>(a[i]) * b[i] : difference * difference;
    }
    return sum;
}

inline double recall(const Task &task, const Found &found) {
    size_t right = 0;
    for (size_t q = 0; q < task.queries.count; q++) {
        const double worst = task.truth.at(q)[found.k - 1];
        const double slack = TOLERANCE * std::max(std::fabs(worst), 1e-6);
        for (size_t i = q * found.k; i < (q + 1) * found.k; i++) {
            if (found.ids[i] < 0) continue;
            const double value = value_of(task, q, static_cast<size_t>(found.ids[i]));
            right += task.products ? value >= worst - slack : value <= worst + slack;
        }
    }
    return static_cast<double>(right) / static_cast<double>(task.queries.count * found.k);
}

inline double now() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

/* Queries a second of whole batches, after one that warms up (but for seconds = 0). */
template <typename Batch> double rate(const Task &task, double seconds, Batch batch) {
    if (seconds > 0) batch();
    const double began = now();
    double batches = 0, passed = 0;
    do {
        batch();
        batches++;
        passed = now() - began;
    } while (passed < seconds);
    return batches * static_cast<double>(task.queries.count) / passed;
}

/* ---- the conversation --------------------------------------------------------------------- */

struct Built {
    double seconds;
    size_t bytes;
};

/* What a program does with its library. */
class Engine {
  public:
    explicit Engine(const Task &given) : task(given) {}
    virtual ~Engine() = default;
    /* Makes the index of that name, in place of one that it had. */
    virtual Built build(const Words &asked) = 0;
    /* Readies the named index for searches with those parameters. */
    virtual void prepare(const Words &asked) = 0;
    /* Answers all queries with the index that is ready. */
    virtual void search(size_t k, int threads, Found &found) = 0;

    const Task &task;
};

inline std::string answer(Engine &engine, const Words &asked) {
    std::ostringstream out;
    out.precision(9);
    if (asked.text("do") == "build") {
        const Built built = engine.build(asked);
        out << "seconds=" << built.seconds << "\tbytes=" << built.bytes;
        return out.str();
    }
    const size_t k = asked.count("k");
    const int threads = static_cast<int>(asked.count("threads"));
    Found found(engine.task.queries.count, k);
    engine.prepare(asked);
    out << "qps="
        << rate(engine.task, asked.number("seconds"), [&] { engine.search(k, threads, found); });
    if (k <= engine.task.truth.dim) out << "\trecall=" << recall(engine.task, found);
    return out.str();
}

/* Answers until there are no more questions. */
inline void converse(Engine &engine) {
    for (std::string line; std::getline(std::cin, line) && line != "do=stop";) {
        std::string reply;
        try {
            reply = answer(engine, words_of(line));
        } catch (const std::exception &e) {
            reply = std::string("error=") + e.what();
            std::replace(reply.begin(), reply.end(), '\n', ' ');
        }
        std::cout << reply << std::endl;
    }
}

} // namespace peer

#endif
