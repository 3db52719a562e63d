/*
 * Longest-prefix look-up of inner addresses. Prefixes nest or are disjoint, so the address space is cut once, when the
 * table is compiled, into ranges that each belong to one peer; a look-up is a binary search among the starts.
 */
#ifndef CENTIPEDE_ROUTES_H
#define CENTIPEDE_ROUTES_H

#include "common.h"

#define NO_PEER		UINT32_MAX
#define UNLISTED_PEER	(UINT32_MAX - 1)	/* never the result of a look-up */

struct range {
	uint64_t	high, low;	/* start; an IPv4 address is the top of high */
	uint32_t	peer;		/* index in the snapshot, or NO_PEER */
};

struct routes {
	struct range	*ranges;	/* ascending; the first starts at zero */
	size_t		 count;
};

struct prefix {
	uint64_t	high, low;	/* host bits are zero */
	uint32_t	peer;
	uint32_t	order;		/* of two equal prefixes the later wins */
	uint8_t		length;		/* of 128 bits; IPv4 lengths are as they are, 0..32 */
};

bool	 routes_compile(struct routes *, struct prefix *, size_t count);
void	 routes_free(struct routes *);

static inline void
address_words(const uint8_t *address, unsigned version, uint64_t *high, uint64_t *low)
{
	*high = version == 4 ? (uint64_t)load_be32(address) << 32 : load_be64(address);
	*low = version == 4 ? 0 : load_be64(address + 8);
}

static inline uint32_t
routes_find(const struct routes *r, const uint8_t *address, unsigned version)
{
	const struct range *base = r->ranges;
	size_t n = r->count, half;
	uint64_t high, low;

	address_words(address, version, &high, &low);
	while (n > 1) {
		half = n / 2;
		if (base[half].high < high || (base[half].high == high && base[half].low <= low))
			base += half;
		n -= half;
	}
	return (base->peer);
}

#endif
