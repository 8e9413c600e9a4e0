/* near_list_test: the offer of every instruction set against the plain one: lists of 1 to 70 and of
 * some hundred places, batches of 0 to 40, ties, zeros of both signs, infinities, marks that
 * stay. */
#include "backend/cpu/near_offer.h"

#include "operate.h"

#define PLACES 416
#define BATCH 40

static float distance_at(uint64_t seed, uint64_t i) {
    static const float special[] = { 0.0f, -0.0f, INFINITY, -1.5f, 1.5f, 1e-40f };
    uint32_t choice = peri_random_below(seed, 3 * i, 20);
    if (choice < 6) return special[choice];
    if (choice < 12) return (float)peri_random_below(seed, 3 * i + 1, 5) - 2.0f;
    return test_uniform(seed, 3 * i + 2) * 10.0f;
}

/* Rounds of offers to both lists; slots never repeat. */
static void compare(peri_near_offer_fn offer, size_t capacity, size_t batch, uint64_t seed) {
    uint64_t wanted_keys[PLACES], found_keys[PLACES], spare[BATCH + PERI_NEAR_BLOCK];
    peri_near_list wanted = { wanted_keys, 0, capacity }, found = { found_keys, 0, capacity };
    for (uint64_t round = 0; round < 12; round++) {
        float distances[BATCH];
        uint32_t slots[BATCH];
        for (size_t i = 0; i < batch; i++) {
            uint64_t n = round * BATCH + i;
            distances[i] = distance_at(seed, n);
            slots[i] = (uint32_t)((n * 7919 + seed) % 104729);
        }
        size_t lowest = peri_near_offer(&wanted, distances, slots, batch, spare);
        size_t told = offer(&found, distances, slots, batch, spare);
        CHECK(lowest == told && wanted.count == found.count &&
                  memcmp(wanted_keys, found_keys, wanted.count * sizeof *wanted_keys) == 0,
              "capacity %zu, batch %zu, round %u: %zu of %zu, wanted %zu of %zu", capacity, batch,
              (unsigned)round, told, found.count, lowest, wanted.count);
        if (wanted.count == 0) continue;
        wanted_keys[round % wanted.count] |= PERI_NEAR_MARK;
        found_keys[round % wanted.count] |= PERI_NEAR_MARK;
    }
}

int main(void) {
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        if (!peri_isa_force((peri_isa)isa)) continue;
        for (size_t capacity = 1; capacity <= 70; capacity++)
            for (size_t batch = 0; batch <= BATCH; batch++)
                compare(peri_near_offer_chosen(), capacity, batch, capacity * 41 + batch);
        static const size_t large[] = { 100, 127, 128, 129, 200, 256, 410 };
        for (size_t i = 0; i < sizeof large / sizeof *large; i++)
            for (size_t batch = 1; batch <= BATCH; batch++)
                compare(peri_near_offer_chosen(), large[i], batch, large[i] * 41 + batch);
    }
    peri_isa_force(PERI_ISA_COUNT);
    return check_done();
}
