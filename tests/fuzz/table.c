/*
 * Tables as they come from the control thread. They are its own work, yet none may make the engine read or write astray.
 * Input: 7 counts | the arrays, field by field; two tables in a row, the second inheriting the first one's state.
 *
 * Look-ups of a compiled table are compared with a search through the list of prefixes.
 */
#include "fuzz.h"
#include "table.h"

#define COUNT_MAX	12

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

struct arrays {
	struct engine_table table;
	struct engine_route routes[COUNT_MAX];
	struct engine_peer peers[COUNT_MAX];
	struct engine_plan plans[COUNT_MAX];
	uint8_t shares[ENGINE_BUCKETS];
	struct engine_session sessions[COUNT_MAX];
	struct engine_path paths[COUNT_MAX];
	struct engine_run sources[COUNT_MAX];
};

static void
eat_endpoint(struct input *in, struct engine_endpoint *e)
{
	*e = (struct engine_endpoint){ .version = eat_byte(in) % 16 == 0 ? 5 : 4, .port = eat_byte(in) };
	if (e->port % 2 == 0 && e->version == 4)
		e->version = 6;
	e->address[0] = eat_byte(in);
}

static void
eat_table(struct input *in, struct arrays *a)
{
	struct engine_table *t = &a->table;
	uint32_t i;

	memset(a, 0, sizeof(*a));
	t->route_count = eat_byte(in) % (COUNT_MAX + 1);
	t->peer_count = eat_byte(in) % (COUNT_MAX + 1);
	t->plan_count = eat_byte(in) % (COUNT_MAX + 1);
	t->share_count = eat_byte(in) % 2 != 0 ? ENGINE_BUCKETS : 0;
	t->session_count = eat_byte(in) % (COUNT_MAX + 1);
	t->path_count = eat_byte(in) % (COUNT_MAX + 1);
	t->source_count = eat_byte(in) % (COUNT_MAX + 1);
	t->routes = a->routes;
	t->peers = a->peers;
	t->plans = a->plans;
	t->shares = a->shares;
	t->sessions = a->sessions;
	t->paths = a->paths;
	t->sources = a->sources;
	for (i = 0; i < t->route_count; i++) {
		struct engine_route *r = &a->routes[i];

		r->version = eat_byte(in) % 2 != 0 ? 4 : 6;
		r->prefix = eat_byte(in);
		if (r->prefix > 140)
			r->prefix %= 33;
		r->peer = eat_byte(in) % COUNT_MAX;
		eat(in, r->network, r->version == 4 ? 4 : 16);
	}
	for (i = 0; i < t->path_count; i++) {
		a->paths[i].path = eat_byte(in);
		a->paths[i].rate_bytes_per_s = eat_byte(in);
		eat_endpoint(in, &a->paths[i].local);
		eat_endpoint(in, &a->paths[i].remote);
	}
	for (i = 0; i < t->source_count; i++) {
		a->sources[i].k = eat_byte(in) % 6;
		a->sources[i].first = (uint16_t)(eat_byte(in) << a->sources[i].k);
	}
	for (i = 0; i < t->peer_count; i++) {
		struct engine_peer *p = &a->peers[i];

		p->peer = eat_byte(in) % COUNT_MAX;
		p->known_first = eat_byte(in) % COUNT_MAX;
		p->known_count = eat_byte(in) % COUNT_MAX;
		p->plan_first = eat_byte(in) % COUNT_MAX;
		p->plan_count = eat_byte(in) % 4;
		p->share_count = p->plan_count > 1 || eat_byte(in) % 16 == 0 ? ENGINE_BUCKETS : 0;
	}
	for (i = 0; i < t->share_count; i++)
		a->shares[i] = i % 16 == 0 ? eat_byte(in) % 4 : 0;
	for (i = 0; i < t->plan_count; i++) {
		struct engine_plan *p = &a->plans[i];

		p->session = eat_byte(in) % COUNT_MAX;
		p->path_first = eat_byte(in) % COUNT_MAX;
		p->path_count = eat_byte(in) % 4;
		p->copies = eat_byte(in) % 4;
		p->urgent_first = eat_byte(in) % COUNT_MAX;
		p->urgent_count = eat_byte(in) % 4;
		p->lane_first = eat_byte(in) % COUNT_MAX;
		p->lane_count = eat_byte(in) % 4;
		p->run.k = eat_byte(in) % 8 == 0 ? 5 : 1;
	}
	for (i = 0; i < t->session_count; i++) {
		struct engine_session *s = &a->sessions[i];

		s->session = eat_byte(in) % COUNT_MAX;
		s->peer = eat_byte(in) % COUNT_MAX;
		s->source_first = eat_byte(in) % COUNT_MAX;
		s->source_count = eat_byte(in) % 4;
		s->own.k = eat_byte(in) % 8 == 0 ? 5 : 1;
		s->base[5] = eat_byte(in) % 16;
		s->pending = eat_byte(in) % 2;
	}
}

/* The number of the peer that the list of prefixes gives an address; peers that are not listed do not count. */
static uint64_t
scan(const struct engine_table *t, const uint8_t *address, unsigned version)
{
	uint64_t found = UINT64_MAX;
	int longest = -1, bit;
	uint32_t i, j;

	for (i = 0; i < t->route_count; i++) {
		const struct engine_route *r = &t->routes[i];

		if (r->version != version || r->prefix < longest)
			continue;
		for (bit = 0; bit < r->prefix; bit++)
			if (((r->network[bit / 8] ^ address[bit / 8]) >> (7 - bit % 8) & 1) != 0)
				break;
		if (bit < r->prefix)
			continue;
		longest = r->prefix;
		found = UINT64_MAX;
		for (j = 0; j < t->peer_count; j++)
			if (t->peers[j].peer == r->peer)
				found = r->peer;
	}
	return (found);
}

static void
look_up(const struct snapshot *s, const struct engine_table *t, const uint8_t *address, unsigned version)
{
	uint32_t index = routes_find(version == 4 ? &s->v4 : &s->v6, address, version);
	uint64_t expected = scan(t, address, version);

	check(index == NO_PEER || index < s->peer_count);
	check(index == NO_PEER ? expected == UINT64_MAX : s->peers[index].number == expected);
}

static void
use(struct snapshot *s, const struct arrays *a, struct local *locals)
{
	const struct engine_table *t = &a->table;
	uint8_t address[16];
	struct address remote;
	const struct plan *plan;
	struct local *l;
	uint32_t i, j;
	uint16_t shard;

	for (i = 0; i < t->route_count; i++) {
		memcpy(address, a->routes[i].network, sizeof(address));
		for (j = 0; j < 4; j++) {
			look_up(s, t, address, a->routes[i].version);
			address[j]++;	/* a neighbour, mostly */
		}
	}
	for (i = 0; i < s->session_count; i++) {
		check(session_find(s, s->sessions[i].base) != NULL);
		for (shard = 0; shard < 300; shard++)
			(void)session_window(&s->sessions[i], shard);
	}
	for (i = 0; i < s->peer_count; i++)
		for (j = 0; j < (s->peers[i].shares != NULL ? ENGINE_BUCKETS : s->peers[i].plan_count); j++) {
			plan = &s->peers[i].plans[s->peers[i].shares != NULL ? s->peers[i].shares[j] : j];
			check(plan->session != NULL && plan->fan.count > 0 && plan->fan.paths[0].state != NULL);
		}
	for (i = 0; i < t->path_count; i++)
		if ((l = local_find(locals, &t->paths[i].local)) != NULL) {
			address_set(&remote, &t->paths[i].remote);
			for (j = 0; j < s->peer_count; j++)
				(void)known_path_find(s, l, &remote, j);
		}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct local locals[LOCALS_MAX];
	struct input in = { data, size };
	struct arrays a;
	struct snapshot *old = snapshot_empty(), *s;
	uint64_t floor = 0, stamp;

	memset(locals, 0, sizeof(locals));
	check(old != NULL);
	for (stamp = 2; stamp < 5; stamp++) {
		eat_table(&in, &a);
		if (snapshot_compile(&s, old, &a.table, locals, stamp, &floor, 2) != 0) {
			stamp--;
			if (in.left == 0)
				break;
			continue;
		}
		use(s, &a, locals);
		snapshot_free(old, s);
		old = s;
	}
	snapshot_free(old, NULL);
	return (0);
}
