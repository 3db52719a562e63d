#include "shelf.h"

static size_t
record_bytes(size_t packet_bytes)
{
	return ((sizeof(struct shelved) + packet_bytes + 7) & ~(size_t)7);
}

bool
shelf_put(struct shelf *shelf, uint64_t peer, const struct virtio_net_hdr *vnet, const uint8_t *packet, size_t bytes)
{
	struct shelved *record;

	if (record_bytes(bytes) > SHELF_BYTES - shelf->used)
		shelf_tidy(shelf);
	if (record_bytes(bytes) > SHELF_BYTES - shelf->used)
		return (false);
	record = (struct shelved *)(void *)(shelf->bytes + shelf->used);
	*record = (struct shelved){ .peer = peer, .bytes = (uint32_t)bytes, .has_vnet = vnet != NULL };
	if (vnet != NULL)
		record->vnet = *vnet;
	memcpy(record->packet, packet, bytes);
	shelf->used += record_bytes(bytes);
	return (true);
}

struct shelved *
shelf_next(struct shelf *shelf, struct shelved *record)
{
	size_t at = 0;

	if (record != NULL)
		at = (size_t)((uint8_t *)record - shelf->bytes) + record_bytes(record->bytes);
	for (; at < shelf->used; at += record_bytes(record->bytes)) {
		record = (struct shelved *)(void *)(shelf->bytes + at);
		if (!record->gone)
			return (record);
	}
	return (NULL);
}

void
shelf_tidy(struct shelf *shelf)
{
	struct shelved *record, *next;
	size_t kept = 0, bytes;

	for (record = shelf_next(shelf, NULL); record != NULL; record = next) {
		next = shelf_next(shelf, record);
		bytes = record_bytes(record->bytes);
		memmove(shelf->bytes + kept, record, bytes);
		kept += bytes;
	}
	shelf->used = kept;
}
