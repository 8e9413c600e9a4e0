/* Write the two index files of stock hnswlib that the specs open.
 *
 *     g++ -O2 -o make_fixture spec/hnswlib/make_fixture.cpp
 *     ./make_fixture spec/data/formats
 *
 * Reads l2.fvecs (200 rows x 16) in the given folder and writes beside it
 *   l2.hnsw   squared L2
 *   ip.hnsw   inner product of the same rows, the element of row 17 (label 1051) marked deleted
 * both with M = 8, ef_construction = 100, hnswlib's own seed, and label 1000 + 3 * row.
 * The files in the repository were written with libhnswlib-dev 0.6.2-2+deb12u1. */
#include <cstdint>
#include <fstream>
#include <hnswlib/hnswlib.h>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr size_t DELETED_ROW = 17;

struct Rows {
    size_t count = 0;
    size_t dim = 0;
    std::vector<float> values;

    const float *at(size_t row) const { return values.data() + row * dim; }
};

Rows read_fvecs(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw std::runtime_error("cannot read " + path);
    Rows rows;
    int32_t dim = 0;
    while (in.read(reinterpret_cast<char *>(&dim), sizeof dim)) {
        rows.dim = static_cast<size_t>(dim);
        rows.values.resize((rows.count + 1) * rows.dim);
        float *row = rows.values.data() + rows.count * rows.dim;
        const std::streamsize bytes = dim * static_cast<std::streamsize>(sizeof *row);
        if (!in.read(reinterpret_cast<char *>(row), bytes))
            throw std::runtime_error(path + " ends inside a row");
        rows.count++;
    }
    return rows;
}

hnswlib::labeltype label_of(size_t row) { return 1000 + 3 * row; }

void write_index(hnswlib::SpaceInterface<float> &space, const Rows &rows, bool with_deleted,
                 const std::string &path) {
    hnswlib::HierarchicalNSW<float> index(&space, rows.count, 8, 100);
    for (size_t row = 0; row < rows.count; row++) index.addPoint(rows.at(row), label_of(row));
    if (with_deleted) index.markDelete(label_of(DELETED_ROW));
    index.saveIndex(path);
    std::cout << path << ": " << rows.count << " rows, top level " << index.maxlevel_ << "\n";
}

/* Reopen the file and search every row: it is worth keeping only if hnswlib itself reads it. */
void check_index(hnswlib::SpaceInterface<float> &space, const Rows &rows, bool with_deleted,
                 const std::string &path) {
    hnswlib::HierarchicalNSW<float> index(&space, path);
    index.setEf(rows.count);
    for (size_t row = 0; row < rows.count; row++) {
        auto found = index.searchKnn(rows.at(row), 10);
        if (found.size() != 10) throw std::runtime_error(path + ": a search found fewer than 10");
        for (; !found.empty(); found.pop())
            if (with_deleted && found.top().second == label_of(DELETED_ROW))
                throw std::runtime_error(path + ": a search found the deleted element");
    }
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::cerr << "usage: make_fixture FOLDER\n";
        return 2;
    }
    try {
        const std::string folder = argv[1];
        const Rows rows = read_fvecs(folder + "/l2.fvecs");
        hnswlib::L2Space l2(rows.dim);
        hnswlib::InnerProductSpace ip(rows.dim);
        write_index(l2, rows, false, folder + "/l2.hnsw");
        write_index(ip, rows, true, folder + "/ip.hnsw");
        check_index(l2, rows, false, folder + "/l2.hnsw");
        check_index(ip, rows, true, folder + "/ip.hnsw");
    } catch (const std::exception &e) {
        std::cerr << "make_fixture: " << e.what() << "\n";
        return 1;
    }
    return 0;
}
