/* calibrate: how hard a setting of synthetic.h is for stock hnswlib.
 *
 *     calibrate ROWS SECONDS SETTING...       a setting: latents,clusters,center,within,noise
 *
 * For each setting: makes ROWS x 128 and 1 000 queries, builds hnswlib (M 16, ef_construction 200)
 * with all threads, finds the exact answers, and prints recall@10 and distances computed a query at
 * ef 16, 32, 64 and 128; a line as soon as it is known. No setting is begun that would, judged by
 * the one before, end after SECONDS.
 *
 * Distances are counted by the function that computes them; the upper levels count too. */
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <hnswlib/hnswlib.h>
#include <memory>
#include <omp.h>
#include <stdexcept>
#include <vector>

#include "synthetic.h"

namespace {

constexpr size_t K = 10;
constexpr size_t DIM = 128;
constexpr size_t QUERIES = 1000;
constexpr size_t M = 16;
constexpr size_t EF_CONSTRUCTION = 200;
constexpr size_t ROWS_OF_BLOCK = 256;

double now() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

using Values = std::vector<float>;

Values make_rows(const peri_synthetic &set, uint64_t stream, size_t count) {
    std::vector<int16_t> map(set.latents * set.dim);
    peri_synthetic_map(&set, map.data());
    Values values(count * set.dim);
#pragma omp parallel for schedule(static)
    for (size_t row = 0; row < count; row++)
        peri_synthetic_row(&set, map.data(), stream, row, values.data() + row * set.dim);
    return values;
}

float distance(const float *a, const float *b) {
    float sums[16] = {};
    for (size_t i = 0; i < DIM; i += 16)
        for (size_t lane = 0; lane < 16; lane++) {
            const float difference = a[i + lane] - b[i + lane];
            sums[lane] += difference * difference;
        }
    float sum = 0;
    for (const float lane : sums) sum += lane;
    return sum;
}

/* The K nearest of a query, as a heap of pairs (distance, row). */
struct Nearest {
    std::vector<std::pair<float, uint32_t>> heap;

    void add(float value, uint32_t row) {
        if (heap.size() < K) {
            heap.emplace_back(value, row);
            std::push_heap(heap.begin(), heap.end());
        } else if (value < heap.front().first) {
            std::pop_heap(heap.begin(), heap.end());
            heap.back() = { value, row };
            std::push_heap(heap.begin(), heap.end());
        }
    }
};

/* A thread has a share of the queries and goes over all rows, a block that stays in its cache at a
 * time. */
std::vector<Nearest> find_exactly(const Values &base, const Values &queries) {
    const size_t count = base.size() / DIM;
    std::vector<Nearest> nearest(QUERIES);
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t first = 0; first < QUERIES; first += 16)
        for (size_t block = 0; block < count; block += ROWS_OF_BLOCK)
            for (size_t q = first; q < std::min(first + 16, QUERIES); q++)
                for (size_t row = block; row < std::min(block + ROWS_OF_BLOCK, count); row++)
                    nearest[q].add(distance(queries.data() + q * DIM, base.data() + row * DIM),
                                   static_cast<uint32_t>(row));
    return nearest;
}

std::atomic<size_t> counted{ 0 };
hnswlib::DISTFUNC<float> computed = nullptr;

float count_and_compute(const void *a, const void *b, const void *dim) {
    counted.fetch_add(1, std::memory_order_relaxed);
    return computed(a, b, dim);
}

using Index = hnswlib::HierarchicalNSW<float>;

void build(Index &index, const Values &base) {
    const size_t count = base.size() / DIM;
    index.addPoint(base.data(), 0);
#pragma omp parallel for schedule(dynamic, 64)
    for (size_t row = 1; row < count; row++) index.addPoint(base.data() + row * DIM, row);
}

size_t count_right(Index &index, const float *query, const Nearest &truth) {
    const float worst = truth.heap.front().first;
    size_t right = 0;
    for (auto hits = index.searchKnn(query, K); !hits.empty(); hits.pop())
        right += hits.top().first <= worst * (1 + 1e-5F);
    return right;
}

void search(Index &index, const Values &queries, const std::vector<Nearest> &truth, size_t ef) {
    index.setEf(ef);
    counted = 0;
    size_t right = 0;
#pragma omp parallel for schedule(dynamic, 8) reduction(+ : right)
    for (size_t q = 0; q < QUERIES; q++)
        right += count_right(index, queries.data() + q * DIM, truth[q]);
    std::printf("  ef %3zu: %.4f %5.0f |", ef, double(right) / (QUERIES * K),
                double(counted) / QUERIES);
    std::fflush(stdout);
}

/* Maximum likelihood of the local intrinsic dimension, from the K nearest: the median. */
double intrinsic_dimension(const std::vector<Nearest> &truth) {
    std::vector<double> values;
    for (const Nearest &nearest : truth) {
        double sum = 0;
        const double farthest = nearest.heap.front().first;
        for (const auto &pair : nearest.heap)
            sum += 0.5 * std::log(std::max<double>(pair.first, 1e-9) / farthest);
        values.push_back(-double(K) / sum);
    }
    std::nth_element(values.begin(), values.begin() + QUERIES / 2, values.end());
    return values[QUERIES / 2];
}

void measure(const peri_synthetic &set, size_t count) {
    std::printf("%u,%u,%d,%d,%d at %zu x %zu:", set.latents, set.clusters, set.center_scale,
                set.within_scale, set.noise_scale, count, DIM);
    const double began = now();
    const Values base = make_rows(set, PERI_SYNTHETIC_BASE, count);
    const Values queries = make_rows(set, PERI_SYNTHETIC_QUERIES, QUERIES);
    const double made = now();
    const std::vector<Nearest> truth = find_exactly(base, queries);
    const double answered = now();
    hnswlib::L2Space space(DIM);
    Index index(&space, count, M, EF_CONSTRUCTION);
    build(index, base);
    const double built = now();
    computed = index.fstdistfunc_;
    index.fstdistfunc_ = count_and_compute;
    for (const size_t ef : { 16, 32, 64, 128 }) search(index, queries, truth, ef);
    std::printf(" dimension %.1f, made %.1f s, exact %.1f s, built %.1f s\n",
                intrinsic_dimension(truth), made - began, answered - made, built - answered);
    std::fflush(stdout);
}

peri_synthetic read_setting(const char *text) {
    peri_synthetic set = {};
    set.seed = PERI_SYNTHETIC_SEED;
    set.dim = DIM;
    if (std::sscanf(text, "%u,%u,%d,%d,%d", &set.latents, &set.clusters, &set.center_scale,
                    &set.within_scale, &set.noise_scale) != 5 ||
        !peri_synthetic_check(&set))
        throw std::runtime_error(std::string(text) + " is no setting");
    return set;
}

} // namespace

int main(int argc, char **argv) {
    try {
        if (argc < 4) throw std::runtime_error("ROWS SECONDS SETTING...");
        const auto count = static_cast<size_t>(std::atoll(argv[1]));
        const double began = now(), seconds = std::atof(argv[2]);
        double longest = 0;
        std::printf("%d threads\n", omp_get_max_threads());
        for (int i = 3; i < argc; i++) {
            const double at = now();
            if (at - began + longest > seconds) {
                std::printf("no time left for %s\n", argv[i]);
                continue;
            }
            measure(read_setting(argv[i]), count);
            longest = std::max(longest, now() - at);
        }
    } catch (const std::exception &e) {
        std::fprintf(stderr, "calibrate: %s\n", e.what());
        return 1;
    }
    return 0;
}
