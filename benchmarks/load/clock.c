/* Time, and how it is spread. */
#include "load.h"

#include <sys/resource.h>
#include <time.h>

int64_t now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

double cpu_seconds(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

void histogram_add(struct histogram *histogram, int64_t duration)
{
    uint64_t micros = duration > 0 ? (uint64_t)duration / 1000 : 0;
    int shift = 0;
    while (micros >> shift >= 64)
        shift++;
    /* Below 64 each microsecond has its bucket; above, each power of two has 32. */
    size_t bucket = shift ? (size_t)(shift + 1) * 32 + (micros >> shift) - 32 : micros;
    histogram->buckets[bucket]++;
    histogram->count++;
    if (duration > histogram->most)
        histogram->most = duration;
}

double histogram_quantile(const struct histogram *histogram, double quantile)
{
    uint64_t rank = (uint64_t)((double)histogram->count * quantile), seen = 0;
    for (size_t bucket = 0; bucket < 64 * 32; bucket++) {
        seen += histogram->buckets[bucket];
        if (seen <= rank)
            continue;
        if (bucket < 64)
            return (double)bucket / 1e6;
        size_t shift = bucket / 32 - 1;
        return (double)((uint64_t)(bucket % 32 + 32) << shift) / 1e6;
    }
    return (double)histogram->most / 1e9;
}
