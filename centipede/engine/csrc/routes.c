#include "routes.h"

#define DEPTH_MAX	130	/* nested prefixes of lengths 0..128, and the bottom */

struct open_prefix {
	uint64_t	high, low;	/* last address of the prefix */
	uint32_t	peer;
};

static int
compare_prefixes(const void *left, const void *right)
{
	const struct prefix *a = left, *b = right;

	if (a->high != b->high)
		return (a->high < b->high ? -1 : 1);
	if (a->low != b->low)
		return (a->low < b->low ? -1 : 1);
	if (a->length != b->length)
		return (a->length < b->length ? -1 : 1);
	return (a->order < b->order ? -1 : a->order > b->order);
}

static struct open_prefix
open_prefix(const struct prefix *p)
{
	struct open_prefix o = { .high = p->high, .low = p->low, .peer = p->peer };

	if (p->length < 64)
		o.high |= UINT64_MAX >> p->length;
	if (p->length <= 64)
		o.low = UINT64_MAX;
	else if (p->length < 128)
		o.low |= UINT64_MAX >> (p->length - 64);
	return (o);
}

static void
begin_range(struct routes *r, uint64_t high, uint64_t low, uint32_t peer)
{
	struct range *last = &r->ranges[r->count - 1];

	if (last->high == high && last->low == low)
		last->peer = peer;
	else if (last->peer != peer)
		r->ranges[r->count++] = (struct range){ .high = high, .low = low, .peer = peer };
}

/* Sorts the prefixes. An IPv4 length of n leaves the low 128 - n bits open, which IPv4 look-ups leave zero. */
bool
routes_compile(struct routes *r, struct prefix *prefixes, size_t count)
{
	struct open_prefix stack[DEPTH_MAX];
	size_t depth = 0, i;

	/* A prefix begins one range and its end another. */
	if (count > (SIZE_MAX / sizeof(*r->ranges) - 1) / 2 ||
	    (r->ranges = malloc((2 * count + 1) * sizeof(*r->ranges))) == NULL)
		return (false);
	r->ranges[0] = (struct range){ .peer = NO_PEER };
	r->count = 1;
	if (count > 0)
		qsort(prefixes, count, sizeof(*prefixes), compare_prefixes);
	for (i = 0; i <= count; i++) {
		/* Close what ends before the next prefix; its surroundings continue behind it. */
		while (depth > 0) {
			struct open_prefix top = stack[depth - 1];

			if (i < count && (top.high > prefixes[i].high ||
			    (top.high == prefixes[i].high && top.low >= prefixes[i].low)))
				break;
			depth--;
			if (++top.low == 0 && ++top.high == 0)
				continue;	/* it ended where the address space does */
			begin_range(r, top.high, top.low, depth > 0 ? stack[depth - 1].peer : NO_PEER);
		}
		if (i == count)
			break;
		if (depth > 0 && stack[depth - 1].high == open_prefix(&prefixes[i]).high &&
		    stack[depth - 1].low == open_prefix(&prefixes[i]).low)
			depth--;	/* an equal prefix, or one that fills its parent: it takes its place */
		stack[depth++] = open_prefix(&prefixes[i]);
		begin_range(r, prefixes[i].high, prefixes[i].low, prefixes[i].peer);
	}
	return (true);
}

void
routes_free(struct routes *r)
{
	free(r->ranges);
	*r = (struct routes){ 0 };
}
