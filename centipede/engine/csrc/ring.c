#include <sys/mman.h>

#include "ring.h"

/*
 * Pages are touched one after another as events come, so each worker's memory grows by as much as RING_BYTES until its
 * ring has gone round once, which takes quiet tunnels an hour. It looks like a leak and is none.
 */
#define QUOTA_BYTES	(2u << 20)
#define RING_BYTES	(8u << 20)	/* a power of two, at least QUOTAS * QUOTA_BYTES */

_Static_assert(QUOTAS * QUOTA_BYTES <= RING_BYTES, "the ring holds every quota");
_Static_assert(sizeof(struct engine_event) % 8 == 0, "records stay aligned");

struct ring {
	_Alignas(CACHE_LINE) _Atomic uint64_t head;	/* bytes ever written */
	_Alignas(CACHE_LINE) _Atomic uint64_t tail;	/* bytes ever taken */
	_Alignas(CACHE_LINE) struct {
		uint64_t	 records, bytes;	/* written; the writer's own */
		_Atomic uint64_t records_taken, bytes_taken;
	} quota[QUOTAS];
	_Alignas(CACHE_LINE) uint8_t bytes[RING_BYTES];
};

static enum quota
quota_of(uint32_t kind)
{
	switch (kind) {
	case ENGINE_EVENT_HANDSHAKE:
		return (QUOTA_HANDSHAKE);
	case ENGINE_EVENT_CONTROL:
		return (QUOTA_CONTROL);
	case ENGINE_EVENT_FOREIGN:
		return (QUOTA_FOREIGN);
	default:
		return (QUOTA_EVENT);
	}
}

struct ring *
ring_new(void)
{
	/* Mapped, so that the pages a quiet worker never touches cost nothing. */
	struct ring *r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return (r != MAP_FAILED ? r : NULL);
}

void
ring_free(struct ring *r)
{
	if (r != NULL)
		munmap(r, sizeof(*r));
}

static void
copy_in(struct ring *r, uint64_t at, const void *from, size_t bytes)
{
	size_t offset = at % RING_BYTES, first = RING_BYTES - offset;

	if (first > bytes)
		first = bytes;
	if (bytes == 0)
		return;
	memcpy(r->bytes + offset, from, first);
	memcpy(r->bytes, (const uint8_t *)from + first, bytes - first);
}

static void
copy_out(const struct ring *r, uint64_t at, void *to, size_t bytes)
{
	size_t offset = at % RING_BYTES, first = RING_BYTES - offset;

	if (first > bytes)
		first = bytes;
	memcpy(to, r->bytes + offset, first);
	memcpy((uint8_t *)to + first, r->bytes, bytes - first);
}

bool
ring_push(struct ring *r, struct engine_event *event, const uint8_t *data, size_t data_bytes)
{
	static const uint8_t zeros[8];
	enum quota q = quota_of(event->kind);
	uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
	size_t padding = -data_bytes & 7, bytes = sizeof(*event) + data_bytes + padding;

	/* The reader frees the bytes before it gives the quota back, so a quota with room means bytes with room. */
	if (r->quota[q].records - atomic_load_explicit(&r->quota[q].records_taken, memory_order_acquire) >= RING_RECORDS ||
	    r->quota[q].bytes + bytes - atomic_load_explicit(&r->quota[q].bytes_taken, memory_order_acquire) > QUOTA_BYTES)
		return (false);
	r->quota[q].records++;
	r->quota[q].bytes += bytes;
	event->record_bytes = (uint32_t)bytes;
	if (data != NULL)
		event->data_bytes = (uint32_t)data_bytes;
	copy_in(r, head, event, sizeof(*event));
	copy_in(r, head + sizeof(*event), data, data_bytes);
	copy_in(r, head + sizeof(*event) + data_bytes, zeros, padding);
	atomic_store_explicit(&r->head, head + bytes, memory_order_release);
	return (true);
}

size_t
ring_take(struct ring *r, uint8_t *buffer, size_t buffer_bytes)
{
	uint64_t head = atomic_load_explicit(&r->head, memory_order_acquire);
	uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
	struct engine_event event;
	size_t used = 0;
	enum quota q;

	while (tail != head) {
		copy_out(r, tail, &event, sizeof(event));
		if (event.record_bytes > buffer_bytes - used)
			break;
		copy_out(r, tail, buffer + used, event.record_bytes);
		tail += event.record_bytes;
		used += event.record_bytes;
		atomic_store_explicit(&r->tail, tail, memory_order_release);
		q = quota_of(event.kind);
		atomic_fetch_add_explicit(&r->quota[q].bytes_taken, event.record_bytes, memory_order_release);
		atomic_fetch_add_explicit(&r->quota[q].records_taken, 1, memory_order_release);
	}
	return (used);
}
