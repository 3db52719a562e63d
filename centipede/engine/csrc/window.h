/* The replay window: see docs/protocol.md "Replay window" and centipede/protocol/window.py, the reference. */
#ifndef CENTIPEDE_WINDOW_H
#define CENTIPEDE_WINDOW_H

#include "common.h"

#define WINDOW_PACKETS	65536
#define WINDOW_WORDS	(WINDOW_PACKETS / 32)
#define COUNTER_LIMIT	(1ull << 44)	/* no packet has this counter or a greater one */

enum verdict {
	VERDICT_NEW,
	VERDICT_SEEN,
	VERDICT_OLD
};

struct window {
	_Atomic uint64_t words[WINDOW_WORDS];	/* each: tag (32) | bitmap (32) */
};

enum verdict	window_test(const struct window *, uint64_t counter);
enum verdict	window_insert(struct window *, uint64_t counter);

#endif
