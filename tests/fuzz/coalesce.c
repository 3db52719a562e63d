/*
 * Opened packets on their way to the TUN device. Input: records of 2 length | 1 flags (1 partial) | packet.
 *
 * What is written, cut into segments again as the kernel would, is what was handed in: each packet once, those of one
 * flow in order, with right checksums where they were left to us and untouched ones, right or wrong, where they were not.
 */
#include "coalesce.h"
#include "fuzz.h"
#include "segment.h"

#define PACKETS_MAX	256

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

struct expected {
	uint8_t		*packet;
	struct inner	 inner;
	bool		 written;
};

static struct expected expected[PACKETS_MAX];
static unsigned expected_count;

/* What segmentation may change where fragmentation is forbidden: the id, and with it the header's checksum. */
static void
normalise(uint8_t *packet, const struct inner *inner)
{
	if (inner->version == 4 && (packet[6] & 0x40) != 0) {
		uint16_t sum = checksum_fold(checksum_add(0, packet, inner->l3_bytes));

		memset(packet + 4, 0, 2);
		memset(packet + 10, sum == 0xffff ? 0 : 1, 2);
	}
}

static bool
same_flow(const struct expected *e, const uint8_t *packet, const struct inner *inner)
{
	size_t address = inner->version == 4 ? 12 : 8;

	return (e->inner.version == inner->version && e->inner.protocol == inner->protocol &&
	    inner_transport_whole(e->packet, &e->inner) && inner_transport_whole(packet, inner) &&
	    memcmp(e->packet + address, packet + address, inner->version == 4 ? 8 : 32) == 0 &&
	    memcmp(e->packet + e->inner.l3_bytes, packet + inner->l3_bytes, 4) == 0);
}

static void
expect(uint8_t *packet, size_t bytes)
{
	struct inner inner;
	unsigned i;

	check(inner_parse(packet, bytes, &inner) && inner.bytes == bytes);
	normalise(packet, &inner);
	for (i = 0; i < expected_count; i++) {
		if (expected[i].written)
			continue;
		if (expected[i].inner.bytes == bytes && memcmp(expected[i].packet, packet, bytes) == 0) {
			expected[i].written = true;
			return;
		}
		check(!same_flow(&expected[i], packet, &inner));
	}
	abort();	/* nobody handed this in */
}

unsigned
tun_drop_reason(int error)
{
	(void)error;
	abort();
}

/* In place of tun.c. */
int
tun_write(struct tun *tun, const struct iovec *vectors, int count)
{
	uint8_t whole[VNET_BYTES + PACKET_BYTES_MAX], *segment;
	struct virtio_net_hdr vnet = { 0 };
	struct segmenter s;
	struct inner inner;
	size_t bytes = 0, header = tun->vnet_hdr ? VNET_BYTES : 0;
	int i;

	for (i = 0; i < count; i++) {
		check(vectors[i].iov_len <= sizeof(whole) - bytes);
		memcpy(whole + bytes, vectors[i].iov_base, vectors[i].iov_len);
		bytes += vectors[i].iov_len;
	}
	check(bytes >= header);
	memcpy(&vnet, whole, header);
	if (vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE && tun->write_uso != tun->write_tso)
		return (22);	/* EINVAL: with but one kind of offload on, play a kernel that knows neither */
	check(segment_begin(&s, whole + header, bytes - header, header != 0 ? &vnet : NULL));
	while (segment_next(&s, &segment, &bytes)) {
		if ((segment[0] & PARTIAL_BIT) != 0) {
			segment[0] &= (uint8_t)~PARTIAL_BIT;
			check(inner_parse(segment, bytes, &inner));
			inner_complete(segment, &inner);
		}
		expect(segment, bytes);
	}
	return (0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct coalescer coalescer;
	struct input in = { data, size };
	counter_t drops[DROP_REASONS] = { 0 };
	uint8_t offloads = eat_byte(&in), *packets[PACKETS_MAX];
	struct tun tun = { .vnet_hdr = (offloads & 1) != 0, .drops = drops };
	struct expected *e;
	unsigned count = 0, i;
	uint16_t length;
	size_t bytes;
	bool partial;

	tun.write_tso = tun.vnet_hdr && (offloads & 2) != 0;
	tun.write_uso = tun.vnet_hdr && (offloads & 4) != 0;
	coalesce_init(&coalescer, &tun);
	expected_count = 0;
	while (in.left > 0 && count < PACKETS_MAX) {
		eat(&in, &length, sizeof(length));
		partial = (eat_byte(&in) & 1) != 0;
		packets[count] = eat_copy(&in, length, &bytes);
		e = &expected[expected_count];
		if (!inner_parse(packets[count], bytes, &e->inner) ||
		    (partial && !inner_transport_whole(packets[count], &e->inner))) {
			free(packets[count]);
			continue;
		}
		check((e->packet = malloc(e->inner.bytes)) != NULL);
		memcpy(e->packet, packets[count], e->inner.bytes);
		if (partial) {
			/* As a sender does: the field is the pseudo-header's sum. */
			store_be16(packets[count] + e->inner.l3_bytes + inner_checksum_offset(&e->inner),
			    checksum_fold(checksum_pseudo(e->packet, e->inner.version, e->inner.protocol) +
			    e->inner.bytes - e->inner.l3_bytes));
			memcpy(e->packet, packets[count], e->inner.bytes);
			inner_complete(e->packet, &e->inner);
		}
		normalise(e->packet, &e->inner);
		e->written = false;
		expected_count++;
		coalesce_packet(&coalescer, packets[count++], &e->inner, partial);
	}
	coalesce_flush(&coalescer);
	for (i = 0; i < expected_count; i++) {
		check(expected[i].written);
		free(expected[i].packet);
		free(packets[i]);
	}
	return (0);
}
