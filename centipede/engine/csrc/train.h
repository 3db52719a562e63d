/*
 * Trains of sealed datagrams on their way out. Datagrams of one fan and one size that follow each other form a train,
 * which one UDP_SEGMENT send carries over each path; the last of a train may be shorter. Trains are sent together, with
 * one system call per local address.
 */
#ifndef CENTIPEDE_TRAIN_H
#define CENTIPEDE_TRAIN_H

#include <sys/socket.h>

#include "packet.h"
#include "table.h"

#define DATAGRAM_BYTES_MAX	65507	/* of UDP over IPv4 */
#define TRAIN_SEGMENTS_MAX	64	/* UDP_MAX_SEGMENTS before Linux 6.9 */
#define TRAINS_MAX		64
#define TRAINS_BYTES		(2 * (HEADER_BYTES + PACKET_BYTES_MAX + 1))
#define MESSAGES_MAX		128

struct train {
	const struct fan *fan;
	uint32_t	offset, bytes;
	uint32_t	segment_bytes;
	uint32_t	segments;
};

struct message {
	struct iovec	vector;
	const struct path *path;
	uint32_t	segments, segment_bytes;
	union {
		struct cmsghdr	header;
		uint8_t		bytes[CMSG_SPACE(sizeof(uint16_t))];
	} control;
};

struct trains {
	unsigned	worker;
	counter_t	*drops;
	counter_t	segment_fallbacks;
	uint64_t	now_ns;
	size_t		used;
	unsigned	count;
	unsigned	message_count;
	int		message_fd;
	struct train	list[TRAINS_MAX];
	struct mmsghdr	headers[MESSAGES_MAX];
	struct message	messages[MESSAGES_MAX];
	uint8_t		bytes[TRAINS_BYTES];
};

/* Where to put a datagram of this size, sending what is in the way; train_put() then appends it. */
uint8_t	*train_place(struct trains *, size_t datagram_bytes);
void	 train_put(struct trains *, const struct fan *, size_t datagram_bytes);
void	 trains_send(struct trains *);
unsigned send_drop_reason(int error);

#endif
