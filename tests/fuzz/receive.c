/*
 * Datagrams from the network. Input: 1 address | 2 size of each | the datagrams.
 *
 * The cipher is left out, so that what follows it is reached: a datagram is authentic unless its tag begins with 0xff.
 * Each datagram ends up in exactly one place: an event, a drop, a write on the TUN device, or it was a keepalive.
 */
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine_private.h"
#include "fuzz.h"
#include "worker.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

static struct engine *engine;
static uint64_t written;

/* --- in place of aead.c */

static struct aead {
	char	nothing;
} stand_in;

struct aead *
aead_new(enum engine_aead kind)
{
	(void)kind;
	return (&stand_in);
}

void
aead_free(struct aead *a)
{
	(void)a;
}

const char *
aead_name(const struct aead *a)
{
	(void)a;
	return ("none");
}

bool
aead_seal(struct aead *a, const uint8_t *key, uint8_t *datagram, const uint8_t *plaintext, size_t bytes)
{
	(void)a;
	(void)key;
	memset(datagram + AAD_BYTES, 0, TAG_BYTES);
	memcpy(datagram + HEADER_BYTES, plaintext, bytes);
	return (true);
}

bool
aead_open(struct aead *a, const uint8_t *key, uint8_t *datagram, size_t datagram_bytes)
{
	(void)a;
	(void)key;
	check(datagram_bytes >= HEADER_BYTES);
	return (datagram[AAD_BYTES] != 0xff);
}

void
aead_forget(struct aead *a)
{
	(void)a;
}

const char *
aead_ipsec_mb_missing(void)
{
	return ("left out");
}

/* --- in place of tun.c */

unsigned
tun_drop_reason(int error)
{
	(void)error;
	abort();
}

int
tun_write(struct tun *tun, const struct iovec *vectors, int count)
{
	struct virtio_net_hdr vnet;
	volatile uint8_t sum = 0;
	size_t bytes = 0, i;
	int v;

	for (v = 0; v < count; v++)
		for (i = 0; i < vectors[v].iov_len; i++, bytes++)
			sum += ((const uint8_t *)vectors[v].iov_base)[i];
	check(tun->vnet_hdr && bytes >= VNET_BYTES + 20 && bytes <= VNET_BYTES + PACKET_BYTES_MAX);
	memcpy(&vnet, vectors[0].iov_base, VNET_BYTES);
	/* Vectors of a superpacket: virtio header, header, a payload for each segment. */
	written += vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE ? 1 : (uint64_t)count - 2;
	return (0);
}

/* --- an engine that is never started; its one worker is called by hand */

static void
set_up(void)
{
	struct engine_options options = { .vnet_hdr = 1, .write_tso = 1, .write_uso = 1 };
	struct engine_endpoint local = { .address = { 127, 0, 0, 1 }, .port = 1, .version = 4 };
	struct engine_endpoint remote = { .address = { 127, 0, 0, 2 }, .port = 2, .version = 4 };
	struct engine_path path = { .path = 1, .local = local, .remote = remote };
	struct engine_route routes[2] = { { .network = { 10 }, .peer = 1, .version = 4, .prefix = 8 },
	    { .network = { 0xfd }, .peer = 1, .version = 6, .prefix = 8 } };
	struct engine_run sources[2] = { { .first = 0, .k = 0 }, { .first = 4, .k = 1 } };
	struct engine_peer peer = { .peer = 1, .known_count = 1 };
	struct engine_session sessions[2] = { { .session = 1, .peer = 1, .source_count = 2, .base = "AAAAA" },
	    { .session = 2, .peer = 1, .source_count = 1, .base = "BBBBB", .pending = 1 } };
	struct engine_table table = { .generation = 1, .route_count = 2, .peer_count = 1, .session_count = 2,
	    .path_count = 1, .source_count = 2, .routes = routes, .peers = &peer, .sessions = sessions, .paths = &path,
	    .sources = sources, .forwards = 1 };
	int tun = open("/dev/null", O_RDWR), fd = socket(AF_INET, SOCK_DGRAM, 0), error;

	check((engine = engine_new(&tun, 1, &options, &error)) != NULL);
	check(engine_add_local(engine, &local, &fd) == 0);
	check(engine_apply(engine, &table) == 0);
}

static uint64_t
events(void)
{
	static uint8_t buffer[1 << 18];
	struct engine_event event;
	uint64_t count = 0;
	size_t used, at;

	while ((used = engine_events(engine, buffer, sizeof(buffer))) > 0)
		for (at = 0; at < used; at += event.record_bytes) {
			memcpy(&event, buffer + at, sizeof(event));
			count += event.kind == ENGINE_EVENT_HANDSHAKE || event.kind == ENGINE_EVENT_CONTROL ||
			    event.kind == ENGINE_EVENT_FOREIGN;
		}
	return (count);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct engine_endpoint remote = { .address = { 127, 0, 0, 2 }, .port = 2, .version = 4 };
	uint64_t drops[DROP_REASONS], before = 0, after = 0, told, datagrams, keepalives;
	struct address address;
	struct worker *w;
	struct snapshot *s;
	uint16_t each;
	uint8_t *bytes;
	size_t length, i, j;
	unsigned reason;

	if (engine == NULL)
		set_up();
	w = engine->workers[0];
	s = atomic_load(&engine->snapshot);
	/* Every input meets the same state. */
	for (i = 0; i < s->session_states.count; i++) {
		struct session_state *state = s->session_states.items[i];

		for (j = 0; j < state->source_count; j++)
			memset(state->sources[j].window, 0, sizeof(struct window));
		state->first_told = false;
	}
	memset(s->told, 0, sizeof(s->told));
	w->unheard_first = w->unheard_last;
	engine_drops(engine, drops, DROP_REASONS);
	for (reason = 0; reason < DROP_REASONS; reason++)
		before += drops[reason];
	written = 0;

	remote.port = (uint16_t)(remote.port + (eat_byte(&in) & 1));
	address_set(&address, &remote);
	eat(&in, &each, sizeof(each));
	bytes = eat_copy(&in, RECEIVE_BYTES, &length);
	if (length > 0 && each == 0)
		each = (uint16_t)(length < UINT16_MAX ? length : UINT16_MAX);
	datagrams = length == 0 ? 1 : (length + each - 1) / each;
	for (keepalives = 0, i = 0; i < length; i += each)
		keepalives += length - i >= HEADER_BYTES && (each == HEADER_BYTES || length - i == HEADER_BYTES);
	inbound_message(w, w->locals[0], &address, bytes, length, each);
	coalesce_flush(&w->coalescer);

	told = events() + w->unheard_last - w->unheard_first;	/* what waits for its source shard is not lost either */
	engine_drops(engine, drops, DROP_REASONS);
	for (reason = 0; reason < DROP_REASONS; reason++)
		after += drops[reason];
	check(told + written + after - before <= datagrams);
	check(told + written + after - before + keepalives >= datagrams);
	free(bytes);
	return (0);
}
