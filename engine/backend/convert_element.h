/* convert_element.h: one element from dtype to dtype: to nearest even, saturating for i8 and u8,
 * where a NaN becomes 0. Everything goes through f32, which holds the values of the other three
 * exactly. */
#ifndef PERI_BACKEND_CONVERT_ELEMENT_H
#define PERI_BACKEND_CONVERT_ELEMENT_H

#include <math.h>

#include "core/half.h"
#include "perigee_backend.h"

static inline float peri_element_load(peri_dtype dtype, const void *row, size_t j) {
    switch (dtype) {
    case PERI_F16: return peri_half_to_float(((const uint16_t *)row)[j]);
    case PERI_I8: return ((const int8_t *)row)[j];
    case PERI_U8: return ((const uint8_t *)row)[j];
    default: return ((const float *)row)[j];
    }
}

static inline int32_t peri_element_round(float value, float least, float most) {
    if (isnan(value)) return 0;
    float inside = value < least ? least : value > most ? most : value;
    return (int32_t)rintf(inside);
}

static inline void peri_element_store(peri_dtype dtype, void *row, size_t j, float value) {
    switch (dtype) {
    case PERI_F16: ((uint16_t *)row)[j] = peri_float_to_half(value); break;
    case PERI_I8: ((int8_t *)row)[j] = (int8_t)peri_element_round(value, -128, 127); break;
    case PERI_U8: ((uint8_t *)row)[j] = (uint8_t)peri_element_round(value, 0, 255); break;
    default: ((float *)row)[j] = value; break;
    }
}

#endif
