/*
 * Packets of the TUN device: parser and segmenter. Input: 10 bytes virtio header | packet.
 *
 * Whatever comes, no segment is malformed, a partial one may be partial, and the payloads of a superpacket's segments
 * are its payload. A good checksum is good after the MSS was clamped, and TCP over IPv6 that must fit does.
 */
#include "fuzz.h"
#include "segment.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct virtio_net_hdr vnet;
	struct segmenter s;
	struct inner inner;
	uint8_t *packet, *before, *segment;
	size_t bytes, segment_bytes, payload = 0, header = 0;
	bool partial, good, fit;

	eat(&in, &vnet, sizeof(vnet));
	packet = eat_copy(&in, PACKET_BYTES_MAX, &bytes);
	check((before = malloc(bytes + 1)) != NULL);
	if (bytes > 0)
		memcpy(before, packet, bytes);
	if (segment_begin(&s, packet, bytes, (vnet.flags & 0x80) != 0 ? NULL : &vnet)) {
		if ((fit = (vnet.flags & 0x40) != 0))
			segment_fit(&s, 1200);
		header = s.header_bytes;
		while (segment_next(&s, &segment, &segment_bytes)) {
			check(segment >= packet && segment_bytes <= (size_t)(packet + bytes - segment));
			partial = (segment[0] & PARTIAL_BIT) != 0;
			segment[0] &= (uint8_t)~PARTIAL_BIT;
			check(inner_parse(segment, segment_bytes, &inner));
			check(inner.bytes == segment_bytes);
			check(!partial || inner_transport_whole(segment, &inner));
			if (header == 0) {
				good = !s.undone && inner_transport_whole(segment, &inner) && inner_checksum_good(segment, &inner);
				inner_clamp_mss(segment, &inner, 1200, s.undone);
				check(!good || inner_checksum_good(segment, &inner));
				continue;
			}
			check(!fit || inner.version != 6 || inner.protocol != PROTOCOL_TCP || segment_bytes <= 1200);
			check(memcmp(segment + header, before + header + payload, segment_bytes - header) == 0);
			payload += segment_bytes - header;
		}
		check(header == 0 || header + payload == s.inner.bytes);
	}
	free(packet);
	free(before);
	return (0);
}
