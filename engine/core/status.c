/* status.c: codes, texts, and the detail of the last failure of each thread. */
#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define DETAIL_MAX 512

static _Thread_local char detail_text[DETAIL_MAX];

const char *peri_status_code(peri_status status) {
    switch (status) {
#define STATUS_CODE(name, value, code, text)                                                       \
    case PERI_##name: return code;
        PERI_STATUS_MAP(STATUS_CODE)
#undef STATUS_CODE
    }
    return "unknown";
}

const char *peri_status_text(peri_status status) {
    switch (status) {
#define STATUS_TEXT(name, value, code, text)                                                       \
    case PERI_##name: return text;
        PERI_STATUS_MAP(STATUS_TEXT)
#undef STATUS_TEXT
    }
    return "an unknown status";
}

const char *peri_error_detail(void) { return detail_text; }

peri_status peri_fail(peri_status status, const char *format, ...) {
    /* Formatted aside first: an argument may be the old detail itself. */
    char text[DETAIL_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(detail_text, text, sizeof text);
    return status;
}

peri_status peri_fail_again(peri_status status, const char *detail) {
    return peri_fail(status, "%s", detail);
}
