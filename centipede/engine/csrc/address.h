/*
 * Addresses as the kernel has them, and the local ones with their sockets.
 */
#ifndef CENTIPEDE_ADDRESS_H
#define CENTIPEDE_ADDRESS_H

#include <netinet/in.h>

#include "common.h"

#define LOCALS_MAX	64

struct address {
	union {
		struct sockaddr		any;
		struct sockaddr_in	v4;
		struct sockaddr_in6	v6;
	};
	socklen_t	bytes;
};

/*
 * A local address with its sockets. Slots have fixed places, so a path may point to one whether it is served or not;
 * the descriptors are -1 while it is not.
 */
struct local {
	struct engine_endpoint endpoint;
	uint64_t	named_by;	/* the last table that named it (engine's count, not the generation) */
	bool		served;
	_Atomic int	fds[WORKERS_MAX];
};

struct local	*local_find(struct local *locals, const struct engine_endpoint *);
struct local	*local_take(struct local *locals, const struct engine_endpoint *, uint64_t current_stamp);

void		 address_set(struct address *, const struct engine_endpoint *);
void		 address_get(const struct address *, struct engine_endpoint *);
bool		 address_equal(const struct address *, const struct address *);
uint64_t	 address_hash(const struct address *);

#endif
