/* The engine as its workers see it. */
#ifndef CENTIPEDE_ENGINE_PRIVATE_H
#define CENTIPEDE_ENGINE_PRIVATE_H

#include "common.h"
#include "table.h"

/* A descriptor whose reading failed is left alone for so long: a TUN device that is gone stays readable for ever. */
#define REST_AFTER_FAILURE_NS	(NS_PER_S / 10)

struct worker;

struct engine {
	_Alignas(CACHE_LINE) _Atomic uint64_t epoch;	/* rises with every change that workers must take up */
	struct snapshot *_Atomic snapshot;
	_Atomic bool	 stopping;
	uint64_t	 spin_ns;

	_Alignas(CACHE_LINE) _Atomic bool events_signalled;
	int		 event_fd;
	int		 inject_fd;		/* what is sent here one worker receives */

	/* The control thread's own. */
	_Alignas(CACHE_LINE) uint64_t stamp;		/* of the snapshot */
	uint64_t	 session_floor;
	bool		 started;
	counter_t	 drops[DROP_REASONS];
	counter_t	 gro_fallbacks, steering_fallbacks;
	struct local	 locals[LOCALS_MAX];
	unsigned	 worker_count;
	struct worker	*workers[WORKERS_MAX];
};

#endif
