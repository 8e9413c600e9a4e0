/* rabitq.c: the search for the code, its factors, and the query's rounding. */
#include "quant/rabitq.h"

#include <math.h>

/* Sums run in 8 lanes, folded in one order: vectors for the compiler, the same bits everywhere. */
enum { LANES = 8, STEPS = 16 };

static float fold(const float *lanes) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += lanes[i];
    return sum;
}

peri_status peri_rabitq_init(peri_rabitq *rabitq, peri_context *context, uint32_t dim,
                             uint32_t bits, uint64_t seed) {
    uint32_t padded = peri_rabitq_padded_dim(dim);
    *rabitq = (peri_rabitq){ .dim = dim, .padded_dim = padded, .bits = bits, .seed = seed };
    return peri_rotation_init(&rabitq->rotation, context, dim, padded, seed);
}

void peri_rabitq_reset(peri_rabitq *rabitq) { peri_rotation_reset(&rabitq->rotation); }

/* ---- the code of a residual --------------------------------------------------------------- */

/* <x, r> and <x, x> of the code that steps of 1 / `scale` give. Magnitudes are m + 1/2 with m =
 * floor(|r| * scale), at most `most`. */
static void measure(const float *r, size_t n, float scale, float most, float *dot, float *square) {
    float dots[LANES] = { 0 }, squares[LANES] = { 0 };
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            float magnitude = fabsf(r[i + l]), level = magnitude * scale;
            level = level < most ? level : most;
            float x = (float)(int32_t)level + 0.5f;
            dots[l] += magnitude * x;
            squares[l] += x * x;
        }
    *dot = fold(dots);
    *square = fold(squares);
}

/* The step of the best uniform quantizer of a normal variable, by bits (Max, Quantizing for
 * minimum distortion, 1960). */
static const float normal_step[PERI_CODE_BITS_MAX + 1] = { 0,       0,       0.9957f,
                                                           0.5860f, 0.3352f, 0.1881f,
                                                           0.1041f, 0.0568f, 0.0308f };

/* 1 / step with the largest cosine, among STEPS from 0.6 to 1.7 times that of the normal one. */
static float best_scale(const float *r, size_t n, uint32_t bits, float length) {
    float normal = sqrtf((float)n) / (length * normal_step[bits]);
    float most = (float)((1u << (bits - 1)) - 1u), best = normal, best_cosine = -1;
    for (int i = 0; i < STEPS; i++) {
        float scale = normal * (0.6f + 1.1f * (float)i / (STEPS - 1)), dot, square;
        measure(r, n, scale, most, &dot, &square);
        float cosine = dot * dot / square;
        if (cosine <= best_cosine) continue;
        best_cosine = cosine;
        best = scale;
    }
    return best;
}

/* Moves magnitudes by one where the cosine grows. */
static void polish(const float *r, size_t n, int32_t most, uint8_t *m, float *dot, float *square) {
    for (size_t i = 0; i < n; i++) {
        float magnitude = fabsf(r[i]), x = (float)m[i] + 0.5f;
        for (int step = -1; step <= 1; step += 2) {
            if ((int32_t)m[i] + step < 0 || (int32_t)m[i] + step > most) continue;
            float d = *dot + (float)step * magnitude, s = *square + 2 * (float)step * x + 1;
            if (d * d * *square <= *dot * *dot * s) continue;
            *dot = d;
            *square = s;
            m[i] = (uint8_t)((int32_t)m[i] + step);
            break;
        }
    }
}

static void quantize(const float *r, size_t n, uint32_t bits, float length, uint8_t *codes) {
    uint32_t levels = 1u << (bits - 1); /* magnitudes; the sign is the highest bit */
    if (bits > 1) {
        float most = (float)(levels - 1u), dot, square;
        float scale = best_scale(r, n, bits, length);
        measure(r, n, scale, most, &dot, &square);
        for (size_t i = 0; i < n; i++) {
            float level = fabsf(r[i]) * scale;
            codes[i] = (uint8_t)(int32_t)(level < most ? level : most);
        }
        for (int round = 0; round < 2; round++)
            polish(r, n, (int32_t)levels - 1, codes, &dot, &square);
    } else {
        for (size_t i = 0; i < n; i++) codes[i] = 0;
    }
    for (size_t i = 0; i < n; i++)
        codes[i] = (uint8_t)(r[i] >= 0 ? levels + codes[i] : levels - 1 - codes[i]);
}

/* Sums over the final code, in f64: <x, r>, <x, c> and <x, x>. */
typedef struct code_sums {
    double residual, centroid, square;
} code_sums;

static code_sums sum_code(const uint8_t *codes, const float *r, const float *c, size_t n,
                          float half) {
    code_sums sums = { 0, 0, 0 };
    for (size_t i = 0; i < n; i++) {
        double x = (double)((float)codes[i] - half);
        if (r != NULL) sums.residual += x * (double)r[i];
        if (c != NULL) sums.centroid += x * (double)c[i];
        sums.square += x * x;
    }
    return sums;
}

void peri_rabitq_encode(const peri_rabitq *rabitq, const float *rotated, const float *centroid,
                        uint8_t *row, float *error, void *scratch) {
    size_t n = rabitq->padded_dim, bytes = peri_rabitq_code_bytes(n, rabitq->bits);
    float *r = scratch;
    uint8_t *codes = (uint8_t *)(r + n);
    double length2 = 0;
    for (size_t i = 0; i < n; i++) {
        r[i] = centroid == NULL ? rotated[i] : rotated[i] - centroid[i];
        length2 += (double)r[i] * (double)r[i];
    }
    peri_rabitq_factors factors = { 0, 0 };
    float bound = 0;
    quantize(r, n, rabitq->bits, (float)sqrt(length2), codes);
    code_sums sums = sum_code(codes, r, centroid, n, peri_rabitq_half(rabitq->bits));
    if (sums.residual > 0) { /* else the row is its centroid, and every estimate |q - c|^2 */
        double scale = length2 / sums.residual;
        double cosine2 = sums.residual * sums.residual / (sums.square * length2);
        factors.scale = (float)scale;
        factors.add = (float)(length2 + 2 * scale * sums.centroid);
        bound = (float)sqrt(length2 * fmax(0, 1 - cosine2) / (cosine2 * (double)(n - 1)));
    }
    peri_codes_pack(codes, n, rabitq->bits, row);
    memcpy(row + bytes, &factors, sizeof factors);
    if (error != NULL) *error = bound;
}

/* |r|^2 comes back out of `add`; then t = <x, r> / <x, x> with <x, r> = |r|^2 / scale. */
void peri_rabitq_decode(const peri_rabitq *rabitq, const uint8_t *row, const float *centroid,
                        float *rotated, void *scratch) {
    size_t n = rabitq->padded_dim;
    float half = peri_rabitq_half(rabitq->bits);
    uint8_t *codes = scratch;
    peri_codes_unpack(row, n, rabitq->bits, codes);
    peri_rabitq_factors factors = peri_rabitq_row_factors(row,
                                                          peri_rabitq_code_bytes(n, rabitq->bits));
    code_sums sums = sum_code(codes, NULL, centroid, n, half);
    double scale = (double)factors.scale, t = 0;
    double length2 = (double)factors.add - 2 * scale * sums.centroid;
    if (scale > 0 && length2 > 0) t = length2 / (scale * sums.square);
    for (size_t i = 0; i < n; i++)
        rotated[i] = (centroid == NULL ? 0.0f : centroid[i]) +
                     (float)(t * (double)((float)codes[i] - half));
}

/* ---- queries ------------------------------------------------------------------------------ */

void peri_rabitq_prepare(const peri_rabitq *rabitq, const float *rotated, int8_t *values,
                         peri_rabitq_query *query) {
    size_t n = rabitq->padded_dim;
    float most = 0;
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++) most = fmaxf(most, fabsf(rotated[i]));
    float inverse = most > 0 ? 127.0f / most : 0.0f;
    if (!isfinite(inverse) || !isfinite(most)) inverse = 0; /* next to nothing, or past f32 */
    for (size_t i = 0; i < n; i++) {
        float level = inverse > 0 ? rotated[i] * inverse : 0.0f;
        values[i] = (int8_t)(int32_t)(level < 0 ? level - 0.5f : level + 0.5f);
        sum += values[i];
    }
    *query = (peri_rabitq_query){ values, inverse > 0 ? most / 127.0f : 0.0f,
                                  peri_rabitq_half(rabitq->bits) * (float)sum };
}
