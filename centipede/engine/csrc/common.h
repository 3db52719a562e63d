/* What every file of the engine uses: byte order, counters with one writer, zeroed aligned memory. */
#ifndef CENTIPEDE_COMMON_H
#define CENTIPEDE_COMMON_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine.h"

/* DROP_NO_ROUTE and the like, and DROP_REASONS, are defined by build.py from centipede/protocol/drops.py. */
#ifndef DROP_REASONS
#error "compile with the flags that build.py gives"
#endif

#define CACHE_LINE	64
#define WORKERS_MAX	16
#define NS_PER_S	1000000000ull
#define NS_PER_US	1000ull

#define likely(x)	__builtin_expect(!!(x), 1)
#define unlikely(x)	__builtin_expect(!!(x), 0)

typedef _Atomic uint64_t counter_t;

static inline uint16_t
load_be16(const uint8_t *p)
{
	return ((uint16_t)(p[0] << 8 | p[1]));
}

static inline uint32_t
load_be32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return (__builtin_bswap32(v));
}

static inline uint64_t
load_be64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return (__builtin_bswap64(v));
}

static inline void
store_be16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline void
store_be32(uint8_t *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void
store_be64(uint8_t *p, uint64_t v)
{
	v = __builtin_bswap64(v);
	memcpy(p, &v, sizeof(v));
}

static inline uint64_t
counter_read(const counter_t *c)
{
	return (atomic_load_explicit(c, memory_order_relaxed));
}

static inline void
counter_set(counter_t *c, uint64_t v)
{
	atomic_store_explicit(c, v, memory_order_relaxed);
}

/* Add to a counter that only the calling thread writes: no locked instruction needed. */
static inline void
counter_add(counter_t *c, uint64_t n)
{
	counter_set(c, counter_read(c) + n);
}

/* Count packets that go no further. */
static inline void
drop(counter_t *drops, unsigned reason, uint64_t packets)
{
	counter_add(&drops[reason], packets);
}

static inline uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return ((uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec);
}

/* Zeroed memory that begins a cache line, or NULL; free() releases it. */
static inline void *
zalloc_lines(size_t bytes)
{
	void *p;

	if (bytes > SIZE_MAX - CACHE_LINE)
		return (NULL);
	bytes = (bytes + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
	if ((p = aligned_alloc(CACHE_LINE, bytes != 0 ? bytes : CACHE_LINE)) != NULL)
		memset(p, 0, bytes);
	return (p);
}

/* Avalanche of a 64-bit value (the finaliser of SplitMix64). Not secret: nothing rests on its being unpredictable. */
static inline uint64_t
mix64(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return (x ^ x >> 31);
}

#endif
