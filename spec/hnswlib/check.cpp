/* Search an index file with stock hnswlib and say how much it finds.
 *
 *     check FILE SPACE DIM QUERIES TRUTH_VALUES.fvecs K EF
 *
 * SPACE         l2 (f32 rows), ip (f32 rows, inner product), l2u8 (u8 rows)
 * QUERIES       .fvecs or .bvecs, DIM columns; whole numbers 0..255 for l2u8
 * TRUTH_VALUES  for each query the values of its true neighbours, best first, K columns or more:
 *               squared distances for l2 and l2u8, inner products for ip
 *
 * A found element is right when its value is no worse than the K-th true one, within a relative
 * 1e-5: real data hold ties and equal rows, and which of them is named is a matter of taste. An
 * element found twice counts once.
 *
 * Prints "rows N", "top_level L", "m M", "deleted D", "recall R", then "ids Q: ..." (nearest first)
 * of the first queries. Exit status: 0 searched, 1 the file or the data is no good (one line on
 * stderr says why), 2 the command line is wrong. */
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <hnswlib/hnswlib.h>
#include <iostream>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr double TOLERANCE = 1e-5;
constexpr size_t QUERIES_SHOWN = 3;

struct Rows {
    size_t count = 0;
    size_t dim = 0;
    std::vector<float> values;

    const float *at(size_t row) const { return values.data() + row * dim; }
};

struct Task {
    std::string file, space;
    size_t dim, k, ef;
    Rows queries, truth;
};

bool ends_with(const std::string &text, const std::string &end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

/* .fvecs and .bvecs: before each row its length, as a little-endian int32. */
template <typename T> Rows read_vecs(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw std::runtime_error("cannot read " + path);
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

Rows read_rows(const std::string &path) {
    return ends_with(path, ".bvecs") ? read_vecs<uint8_t>(path) : read_vecs<float>(path);
}

/* The rows as the space takes them. */
template <typename Element> std::vector<Element> elements_of(const Rows &rows) {
    std::vector<Element> out(rows.values.size());
    for (size_t i = 0; i < out.size(); i++) {
        out[i] = static_cast<Element>(rows.values[i]);
        if (static_cast<float>(out[i]) != rows.values[i])
            throw std::runtime_error("a query is not of whole numbers 0..255");
    }
    return out;
}

template <typename Found> size_t count_right(const Task &task, size_t query, const Found &found) {
    const bool products = task.space == "ip";
    const double worst = task.truth.at(query)[task.k - 1];
    const double slack = TOLERANCE * std::max(std::fabs(worst), 1e-6);
    std::set<hnswlib::labeltype> seen;
    size_t right = 0;
    for (const auto &[distance, label] : found) {
        if (!seen.insert(label).second) continue;
        const double value = products ? 1.0 - static_cast<double>(distance) : distance;
        right += products ? value >= worst - slack : value <= worst + slack;
    }
    return std::min(right, task.k);
}

/* Counted here: the library's own number is not initialized when an index is loaded (0.6.2). */
template <typename Index> size_t count_deleted(const Index &index) {
    size_t count = 0;
    for (size_t i = 0; i < index.cur_element_count; i++)
        count += index.isMarkedDeleted((hnswlib::tableint)i);
    return count;
}

/* Element: of a vector. Distance: what the space computes. */
template <typename Element, typename Distance>
void search(const Task &task, hnswlib::SpaceInterface<Distance> &space) {
    hnswlib::HierarchicalNSW<Distance> index(&space, task.file);
    const size_t held = index.label_offset_ - index.offsetData_;
    if (held != space.get_data_size())
        throw std::runtime_error(task.file + " holds vectors of " + std::to_string(held) +
                                 " bytes, not " + std::to_string(space.get_data_size()));
    index.setEf(task.ef);
    std::cout << "rows " << index.cur_element_count << "\ntop_level " << index.maxlevel_ << "\nm "
              << index.M_ << "\ndeleted " << count_deleted(index) << "\n";
    const std::vector<Element> queries = elements_of<Element>(task.queries);
    std::string shown;
    size_t right = 0;
    for (size_t q = 0; q < task.queries.count; q++) {
        const auto found = index.searchKnnCloserFirst(queries.data() + q * task.dim, task.k);
        right += count_right(task, q, found);
        if (q >= QUERIES_SHOWN) continue;
        shown += "ids " + std::to_string(q) + ":";
        for (const auto &one : found) shown += " " + std::to_string(one.second);
        shown += "\n";
    }
    const auto wanted = static_cast<double>(task.queries.count * task.k);
    std::cout << "recall " << static_cast<double>(right) / wanted << "\n" << shown;
}

size_t number(const char *text) {
    char *end = nullptr;
    const unsigned long value = std::strtoul(text, &end, 10);
    if (end == text || *end != '\0' || value == 0)
        throw std::invalid_argument(std::string(text) + " is not a number above 0");
    return value;
}

void run(const Task &task) {
    if (task.queries.dim != task.dim || task.queries.count == 0)
        throw std::runtime_error("the queries have " + std::to_string(task.queries.dim) +
                                 " columns");
    if (task.truth.count != task.queries.count || task.truth.dim < task.k)
        throw std::runtime_error("the truth does not fit the queries and K");
    if (task.space == "l2u8") {
        hnswlib::L2SpaceI space(task.dim);
        search<uint8_t, int>(task, space);
    } else if (task.space == "l2") {
        hnswlib::L2Space space(task.dim);
        search<float, float>(task, space);
    } else {
        hnswlib::InnerProductSpace space(task.dim);
        search<float, float>(task, space);
    }
}

} // namespace

int main(int argc, char **argv) {
    try {
        if (argc != 8)
            throw std::invalid_argument("usage: check FILE l2|ip|l2u8 DIM QUERIES TRUTH K EF");
        Task task{ argv[1], argv[2], number(argv[3]), number(argv[6]), number(argv[7]), {}, {} };
        if (task.space != "l2" && task.space != "ip" && task.space != "l2u8")
            throw std::invalid_argument("SPACE is l2, ip or l2u8, not " + task.space);
        task.queries = read_rows(argv[4]);
        task.truth = read_rows(argv[5]);
        run(task);
    } catch (const std::invalid_argument &e) {
        std::cerr << "check: " << e.what() << "\n";
        return 2;
    } catch (const std::exception &e) {
        std::cerr << "check: " << e.what() << "\n";
        return 1;
    }
    return 0;
}
