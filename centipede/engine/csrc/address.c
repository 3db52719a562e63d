#include "address.h"

void
address_set(struct address *a, const struct engine_endpoint *e)
{
	memset(a, 0, sizeof(*a));
	if (e->version == 4) {
		a->v4.sin_family = AF_INET;
		a->v4.sin_port = htons(e->port);
		memcpy(&a->v4.sin_addr, e->address, 4);
		a->bytes = sizeof(a->v4);
	} else {
		a->v6.sin6_family = AF_INET6;
		a->v6.sin6_port = htons(e->port);
		memcpy(&a->v6.sin6_addr, e->address, 16);
		a->v6.sin6_scope_id = e->scope;
		a->bytes = sizeof(a->v6);
	}
}

void
address_get(const struct address *a, struct engine_endpoint *e)
{
	memset(e, 0, sizeof(*e));
	if (a->any.sa_family == AF_INET) {
		e->version = 4;
		e->port = ntohs(a->v4.sin_port);
		memcpy(e->address, &a->v4.sin_addr, 4);
	} else {
		e->version = 6;
		e->port = ntohs(a->v6.sin6_port);
		memcpy(e->address, &a->v6.sin6_addr, 16);
		e->scope = a->v6.sin6_scope_id;
	}
}

bool
address_equal(const struct address *a, const struct address *b)
{
	if (a->any.sa_family != b->any.sa_family)
		return (false);
	if (a->any.sa_family == AF_INET)
		return (a->v4.sin_port == b->v4.sin_port && a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr);
	return (a->v6.sin6_port == b->v6.sin6_port && a->v6.sin6_scope_id == b->v6.sin6_scope_id &&
	    memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, 16) == 0);
}

uint64_t
address_hash(const struct address *a)
{
	uint64_t high, low;

	if (a->any.sa_family == AF_INET)
		return (mix64((uint64_t)a->v4.sin_addr.s_addr << 16 | a->v4.sin_port));
	memcpy(&high, a->v6.sin6_addr.s6_addr, 8);
	memcpy(&low, a->v6.sin6_addr.s6_addr + 8, 8);
	return (mix64(mix64(high ^ a->v6.sin6_port) ^ low));
}

struct local *
local_find(struct local *locals, const struct engine_endpoint *e)
{
	size_t i;

	for (i = 0; i < LOCALS_MAX; i++)
		if ((locals[i].served || locals[i].named_by != 0) &&
		    memcmp(&locals[i].endpoint, e, sizeof(*e)) == 0)
			return (&locals[i]);
	return (NULL);
}

/* The slot of an address, a free one if it has none, or NULL. Slots that the current table names are not free. */
struct local *
local_take(struct local *locals, const struct engine_endpoint *e, uint64_t current_stamp)
{
	struct local *l;
	size_t i;

	if ((l = local_find(locals, e)) != NULL)
		return (l);
	for (i = 0; i < LOCALS_MAX; i++)
		if (!locals[i].served && (locals[i].named_by == 0 || locals[i].named_by < current_stamp)) {
			locals[i].endpoint = *e;
			locals[i].named_by = 0;
			return (&locals[i]);
		}
	return (NULL);
}
