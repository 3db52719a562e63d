#include "table.h"

#define ENTRIES_MAX	(1u << 24)	/* of any array; keeps every size far from overflow */
#define NARROW_BYTES_MIN	576	/* what everybody must take, RFC 791 */

/* --- look-ups */

/* A zeroed table of slots at most half full. */
static uint32_t *
slots_new(size_t entries, uint64_t *mask)
{
	size_t slots = 2;

	while (slots < 2 * entries)
		slots *= 2;
	*mask = slots - 1;
	return (calloc(slots, sizeof(uint32_t)));
}

static void
slots_put(uint32_t *slots, uint64_t mask, uint64_t hash, uint32_t index)
{
	while (slots[hash & mask] != 0)
		hash++;
	slots[hash & mask] = index + 1;
}

static uint64_t
known_hash(const struct local *local, const struct address *remote, uint32_t peer)
{
	return (mix64(address_hash(remote) ^ (uintptr_t)local ^ (uint64_t)peer << 48));
}

struct path_state *
known_path_find(const struct snapshot *s, const struct local *local, const struct address *remote, uint32_t peer)
{
	uint64_t slot;
	uint32_t index;
	const struct known_path *k;

	for (slot = known_hash(local, remote, peer);; slot++) {
		if ((index = s->known_slots[slot & s->known_mask]) == 0)
			return (NULL);
		k = &s->known[index - 1];
		if (k->local == local && k->peer == peer && address_equal(&k->remote, remote))
			return (k->state);
	}
}

#define TOLD_FORGOTTEN	1

/* The place where this is now noted as told, or NULL if it was before or there is no room to note more. */
_Atomic uint64_t *
told_first(struct snapshot *s, uint64_t hash)
{
	uint64_t found;
	size_t i;

	hash |= 2;	/* neither free nor forgotten */
	for (i = 0; i < TOLD_MAX; i++) {
		_Atomic uint64_t *place = &s->told[(hash + i) % TOLD_MAX];

		found = 0;
		if (atomic_compare_exchange_strong(place, &found, hash))
			return (place);
		if (found == hash)
			return (NULL);
	}
	return (NULL);
}

/* It could not be told after all. */
void
told_forget(_Atomic uint64_t *place)
{
	atomic_store(place, TOLD_FORGOTTEN);
}

/* --- compiling */

struct numbered;

struct compile {
	struct snapshot	*s;
	struct numbered	*order;
	const struct snapshot *old;
	const struct engine_table *t;
	struct local	*locals;
	uint64_t	stamp;
};

static bool
endpoint_valid(const struct engine_endpoint *e)
{
	return (e->version == 4 || e->version == 6);
}

static bool
slice_valid(uint32_t first, uint32_t count, uint32_t total)
{
	return (first <= total && count <= total - first);
}

static bool
run_valid(const struct engine_run *r)
{
	return (r->k <= 4 && r->first % (1u << r->k) == 0 && r->first + (1u << r->k) <= 16383);
}

static bool
peer_valid(const struct engine_table *t, const struct engine_peer *p)
{
	uint32_t i;

	if (!slice_valid(p->known_first, p->known_count, t->path_count) ||
	    !slice_valid(p->plan_first, p->plan_count, t->plan_count) ||
	    !slice_valid(p->share_first, p->share_count, t->share_count) ||
	    p->share_count != (p->plan_count > 1 ? ENGINE_BUCKETS : 0))
		return (false);
	for (i = 0; i < p->share_count; i++)
		if (t->shares[p->share_first + i] >= p->plan_count)
			return (false);
	return (true);
}

static bool
table_valid(const struct engine_table *t, unsigned workers)
{
	const struct engine_plan *p;
	uint32_t i, j;

	if (t->route_count > ENTRIES_MAX || t->peer_count > ENTRIES_MAX || t->plan_count > ENTRIES_MAX ||
	    t->session_count > ENTRIES_MAX || t->path_count > ENTRIES_MAX || t->source_count > ENTRIES_MAX ||
	    t->share_count > ENTRIES_MAX || (t->narrow_bytes != 0 && t->narrow_bytes < NARROW_BYTES_MIN))
		return (false);
	for (i = 0; i < t->route_count; i++)
		if ((t->routes[i].version != 4 || t->routes[i].prefix > 32) &&
		    (t->routes[i].version != 6 || t->routes[i].prefix > 128))
			return (false);
	for (i = 0; i < t->path_count; i++)
		if (!endpoint_valid(&t->paths[i].local) || !endpoint_valid(&t->paths[i].remote))
			return (false);
	for (i = 0; i < t->source_count; i++)
		if (!run_valid(&t->sources[i]))
			return (false);
	for (i = 0; i < t->session_count; i++)
		if (!slice_valid(t->sessions[i].source_first, t->sessions[i].source_count, t->source_count) ||
		    !run_valid(&t->sessions[i].own) || workers > 1u << t->sessions[i].own.k)
			return (false);
	for (i = 0; i < t->peer_count; i++)
		if (!peer_valid(t, &t->peers[i]))
			return (false);
	for (i = 0; i < t->plan_count; i++) {
		p = &t->plans[i];
		if (p->path_count == 0 || p->copies == 0 || !run_valid(&p->run) ||
		    !slice_valid(p->path_first, p->path_count, t->path_count) ||
		    !slice_valid(p->urgent_first, p->urgent_count, t->path_count) ||
		    !slice_valid(p->lane_first, p->lane_count, t->path_count))
			return (false);
		for (j = 0; j < p->lane_count; j++)
			if (t->paths[p->lane_first + j].rate_bytes_per_s == 0)
				return (false);
	}
	return (true);
}

static uint64_t
base_of(const uint8_t base[6])
{
	return ((uint64_t)load_be32(base) << 16 | load_be16(base + 4));
}

/* Peers by number, for routes and sessions to find theirs. */
struct numbered {
	uint64_t	number;
	uint32_t	index;
};

static uint32_t
peer_index(const struct compile *c, uint64_t number)
{
	const struct numbered *found;

	found = c->t->peer_count == 0 ? NULL :
	    bsearch(&number, c->order, c->t->peer_count, sizeof(*c->order), compare_numbers);
	return (found != NULL ? found->index : NO_PEER);
}

/* Build the lists of state, after the check that no session gets a second life. */
static int
compile_state(struct compile *c, uint64_t *floor)
{
	const struct engine_table *t = c->t;
	struct snapshot *s = c->s;
	const struct session_state *state;
	uint64_t *numbers, number, raised = *floor;
	size_t i, most = t->session_count;
	int error = ENGINE_NO_MEMORY;

	if (most < t->peer_count)
		most = t->peer_count;
	if (most < t->path_count)
		most = t->path_count;
	if ((numbers = calloc(most + 1, sizeof(*numbers))) == NULL)
		return (ENGINE_NO_MEMORY);
	for (i = 0; i < t->session_count; i++) {
		numbers[i] = number = t->sessions[i].session;
		state = list_find(&c->old->session_states, number);
		if (state != NULL && memcmp(&state->own, &t->sessions[i].own, sizeof(state->own)) == 0)
			continue;
		if (state != NULL || number < *floor) {
			error = ENGINE_SECOND_LIFE;
			goto out;
		}
		raised = number >= raised ? number + 1 : raised;
	}
	if (!list_build(&s->session_states, numbers, t->session_count, &c->old->session_states,
	    sizeof(struct session_state)))
		goto out;
	for (i = 0; i < t->peer_count; i++)
		numbers[i] = t->peers[i].peer;
	if (!list_build(&s->peer_states, numbers, t->peer_count, &c->old->peer_states, sizeof(struct peer_state)))
		goto out;
	for (i = 0; i < t->path_count; i++)
		numbers[i] = t->paths[i].path;
	if (!list_build(&s->path_states, numbers, t->path_count, &c->old->path_states, sizeof(struct path_state)))
		goto out;
	*floor = raised;
	error = 0;
out:
	free(numbers);
	return (error);
}

static struct local *
compile_local(struct compile *c, const struct engine_endpoint *e)
{
	struct local *l = local_take(c->locals, e, c->stamp - 1);

	if (l != NULL)
		l->named_by = c->stamp;
	return (l);
}

/* The paths `first` to `first + count` of the table, put at `path`. */
static struct fan
compile_fan(struct compile *c, uint32_t first, uint32_t count, struct path *path)
{
	const struct engine_path *e = c->t->paths + first;
	struct fan fan = { .paths = path, .count = count };

	for (; path < fan.paths + count; path++, e++) {
		path->state = list_find(&c->s->path_states, e->path);
		path->local = e->local.version == e->remote.version ? compile_local(c, &e->local) : NULL;
		address_set(&path->remote, &e->remote);
	}
	return (fan);
}

static void
compile_plan(struct compile *c, const struct engine_plan *from, struct plan *to, struct path *path, struct lane *lane)
{
	const struct engine_path *e = c->t->paths + from->lane_first;
	uint32_t i;

	if (!to->session->has_tx_key) {
		memcpy(to->session->tx_key, from->key, KEY_BYTES);
		to->session->has_tx_key = true;
	}
	to->base = base_of(from->base);
	to->run_first = from->run.first;
	to->run_size = (uint16_t)(1u << from->run.k);
	to->fan = compile_fan(c, from->path_first,
	    from->copies < from->path_count ? from->copies : from->path_count, path);
	path += from->path_count;
	to->urgent = compile_fan(c, from->urgent_first, from->urgent_count, path);
	path += from->urgent_count;
	to->lanes = lane;
	to->lane_count = from->lane_count;
	for (i = 0; i < from->lane_count; i++, lane++) {
		lane->fan = compile_fan(c, from->lane_first + i, 1, path++);
		lane->rate_bytes_per_s = e[i].rate_bytes_per_s;
		lane->delay_ns = e[i].delay_ns;
	}
}

static void
compile_known(struct compile *c, uint32_t first, uint32_t count, uint32_t peer)
{
	struct snapshot *s = c->s;
	const struct engine_path *e;
	struct known_path *k;
	uint32_t i;

	for (i = first; i < first + count; i++) {
		e = &c->t->paths[i];
		k = &s->known[s->known_count];
		k->local = compile_local(c, &e->local);
		address_set(&k->remote, &e->remote);
		k->peer = peer;
		k->state = list_find(&s->path_states, e->path);
		if (known_path_find(s, k->local, &k->remote, peer) == NULL)
			slots_put(s->known_slots, s->known_mask, known_hash(k->local, &k->remote, peer),
			    s->known_count++);
	}
}

/* The plans of a peer; their paths and lanes are put at the given places, which move on. */
static int
compile_plans(struct compile *c, const struct engine_peer *peer, uint32_t index, struct path **paths, struct lane **lanes)
{
	struct plan *to = c->s->plans + c->s->plan_count;
	const struct engine_plan *from;
	uint32_t i;

	c->s->peers[index].plans = to;
	c->s->peers[index].plan_count = peer->plan_count;
	c->s->plan_count += peer->plan_count;
	for (i = 0; i < peer->plan_count; i++, to++) {
		from = &c->t->plans[peer->plan_first + i];
		if ((to->session = list_find(&c->s->session_states, from->session)) == NULL)
			return (ENGINE_BAD_TABLE);
		compile_plan(c, from, to, *paths, *lanes);
		compile_known(c, from->path_first, from->path_count, index);
		compile_known(c, from->urgent_first, from->urgent_count, index);
		compile_known(c, from->lane_first, from->lane_count, index);
		*paths += (size_t)from->path_count + from->urgent_count + from->lane_count;
		*lanes += from->lane_count;
	}
	return (0);
}

static int
compile_peers(struct compile *c)
{
	const struct engine_table *t = c->t;
	const struct engine_peer *from;
	const struct engine_plan *plan;
	struct snapshot *s = c->s;
	struct path *paths;
	struct lane *lanes;
	struct peer *to;
	size_t known = 0, planned = 0, laned = 0, plans = 0;
	uint32_t i, j;
	int error;

	/* Peers may name the same plans, so these are counted as often as they are named. */
	for (i = 0; i < t->peer_count; i++) {
		from = &t->peers[i];
		known += from->known_count;
		plans += from->plan_count;
		for (j = 0; j < from->plan_count; j++) {
			plan = &t->plans[from->plan_first + j];
			planned += (size_t)plan->path_count + plan->urgent_count + plan->lane_count;
			laned += plan->lane_count;
		}
		if (known + planned > ENTRIES_MAX || plans > ENTRIES_MAX)
			return (ENGINE_BAD_TABLE);
	}
	known += planned;
	if ((s->peers = calloc((size_t)t->peer_count + 1, sizeof(*s->peers))) == NULL ||
	    (s->known = calloc(known + 1, sizeof(*s->known))) == NULL ||
	    (s->plans = calloc(plans + 1, sizeof(*s->plans))) == NULL ||
	    (s->paths = paths = calloc(planned + 1, sizeof(*s->paths))) == NULL ||
	    (s->lanes = lanes = calloc(laned + 1, sizeof(*s->lanes))) == NULL ||
	    (s->shares = calloc((size_t)t->share_count + 1, 1)) == NULL ||
	    (s->known_slots = slots_new(known, &s->known_mask)) == NULL)
		return (ENGINE_NO_MEMORY);
	if (t->share_count > 0)
		memcpy(s->shares, t->shares, t->share_count);
	s->narrow_bytes = t->narrow_bytes;
	s->forwards = t->forwards != 0;
	for (i = 0; i < t->peer_count; i++) {
		from = &t->peers[i];
		to = &s->peers[s->peer_count++];
		to->number = from->peer;
		to->state = list_find(&s->peer_states, from->peer);
		to->shares = from->share_count > 0 ? s->shares + from->share_first : NULL;
		compile_known(c, from->known_first, from->known_count, i);
		if ((error = compile_plans(c, from, i, &paths, &lanes)) != 0)
			return (error);
	}
	return (0);
}

/* What is kept for a source shard: the session's, or new, with its window. */
static struct source *
source_of(struct session_state *state, uint16_t shard)
{
	struct window *w;
	uint32_t i;

	for (i = 0; i < state->source_count; i++)
		if (state->sources[i].shard == shard)
			return (&state->sources[i]);
	if (state->source_count == SOURCES_MAX || (w = zalloc_lines(sizeof(*w))) == NULL)
		return (NULL);
	state->sources[state->source_count] = (struct source){ .shard = shard, .window = w };
	return (&state->sources[state->source_count++]);
}

/* Where packets of a source shard wait. Its pages are touched when they do. */
static struct reorder *
source_reorder(struct source *source)
{
	if (source->reorder == NULL &&
	    (source->reorder = aligned_alloc(CACHE_LINE, sizeof(*source->reorder))) != NULL) {
		memset(source->reorder, 0, offsetof(struct reorder, bytes));
		source->reorder->window = source->window;
	}
	return (source->reorder);
}

static int
compile_sessions(struct compile *c)
{
	const struct engine_table *t = c->t;
	struct snapshot *s = c->s;
	struct source_run *run;
	struct source *source;
	size_t runs = 0;
	uint32_t i, j, n;

	for (i = 0; i < t->session_count; i++)
		runs += t->sessions[i].source_count;
	if (runs > ENTRIES_MAX)
		return (ENGINE_BAD_TABLE);
	if ((s->sessions = calloc((size_t)t->session_count + 1, sizeof(*s->sessions))) == NULL ||
	    (s->runs = calloc(runs + 1, sizeof(*s->runs))) == NULL ||
	    (s->session_slots = slots_new(t->session_count, &s->session_mask)) == NULL)
		return (ENGINE_NO_MEMORY);
	run = s->runs;
	for (i = 0; i < t->session_count; i++) {
		const struct engine_session *from = &t->sessions[i];
		struct session *to = &s->sessions[i];

		if ((to->peer = peer_index(c, from->peer)) == NO_PEER)
			to->peer = UNLISTED_PEER;	/* what no route leads to, so nothing is delivered */
		to->state = list_find(&s->session_states, from->session);
		if (list_find(&c->old->session_states, from->session) == NULL) {
			memcpy(to->state->rx_key, from->key, KEY_BYTES);
			to->state->own = from->own;
		}
		to->own_first = from->own.first;
		to->own_size = (uint16_t)(1u << from->own.k);
		to->base = base_of(from->base);
		to->pending = from->pending != 0;
		to->reorder_ns = from->reorder_ns;
		to->runs = run;
		to->run_count = from->source_count;
		for (j = 0; j < from->source_count; j++, run++) {
			run->first = t->sources[from->source_first + j].first;
			run->size = (uint16_t)(1u << t->sources[from->source_first + j].k);
			for (n = 0; n < run->size; n++) {
				if ((source = source_of(to->state, (uint16_t)(run->first + n))) == NULL)
					return (ENGINE_NO_MEMORY);
				run->windows[n] = source->window;
				if (to->reorder_ns != 0 && (run->reorders[n] = source_reorder(source)) == NULL)
					return (ENGINE_NO_MEMORY);
			}
		}
		slots_put(s->session_slots, s->session_mask, mix64(to->base), i);
		s->session_count++;
	}
	return (0);
}

static int
compile_routes(struct compile *c)
{
	const struct engine_table *t = c->t;
	struct snapshot *s = c->s;
	struct prefix *prefixes, *v4, *v6, *p;
	uint32_t i;
	int error;

	if ((prefixes = calloc((size_t)t->route_count + 1, sizeof(*prefixes))) == NULL)
		return (ENGINE_NO_MEMORY);
	v4 = prefixes;				/* IPv4 from the front */
	v6 = prefixes + t->route_count;		/* IPv6 from the back */
	for (i = 0; i < t->route_count; i++) {
		const struct engine_route *from = &t->routes[i];

		p = from->version == 4 ? v4++ : --v6;
		p->peer = peer_index(c, from->peer);
		address_words(from->network, from->version, &p->high, &p->low);
		p->length = from->prefix;
		p->order = i;
		if (p->length < 64) {
			p->high &= ~(UINT64_MAX >> p->length);
			p->low = 0;
		} else if (p->length < 128)
			p->low &= p->length == 64 ? 0 : ~(UINT64_MAX >> (p->length - 64));
	}
	error = routes_compile(&s->v4, prefixes, (size_t)(v4 - prefixes)) &&
	    routes_compile(&s->v6, v6, (size_t)(prefixes + t->route_count - v6)) ? 0 : ENGINE_NO_MEMORY;
	free(prefixes);
	return (error);
}

int
snapshot_compile(struct snapshot **result, const struct snapshot *old, const struct engine_table *t,
    struct local *locals, uint64_t stamp, uint64_t *floor, unsigned workers)
{
	struct compile c = { .old = old, .t = t, .locals = locals, .stamp = stamp };
	uint64_t raised = *floor;
	uint32_t i;
	int error;

	if (!table_valid(t, workers))
		return (ENGINE_BAD_TABLE);
	c.s = zalloc_lines(sizeof(*c.s));
	c.order = calloc((size_t)t->peer_count + 1, sizeof(*c.order));
	if (c.s == NULL || c.order == NULL) {
		free(c.s);
		free(c.order);
		return (ENGINE_NO_MEMORY);
	}
	for (i = 0; i < t->peer_count; i++)
		c.order[i] = (struct numbered){ .number = t->peers[i].peer, .index = i };
	qsort(c.order, t->peer_count, sizeof(*c.order), compare_numbers);
	if ((error = compile_state(&c, &raised)) == 0 && (error = compile_peers(&c)) == 0 &&
	    (error = compile_sessions(&c)) == 0 && (error = compile_routes(&c)) == 0) {
		*result = c.s;
		*floor = raised;
	} else
		snapshot_free(c.s, old);
	free(c.order);
	return (error);
}

/* What an engine has before its first table. */
struct snapshot *
snapshot_empty(void)
{
	static const struct snapshot nothing;
	static const struct engine_table table;
	struct snapshot *s = NULL;
	uint64_t floor = 0;

	return (snapshot_compile(&s, &nothing, &table, NULL, 1, &floor, 1) == 0 ? s : NULL);
}

static void
release_plain(void *item)
{
	free(item);
}

static void
release_session(void *item)
{
	struct session_state *state = item;
	uint32_t i;

	for (i = 0; i < state->source_count; i++) {
		free(state->sources[i].window);
		if (state->sources[i].reorder != NULL)
			explicit_bzero(state->sources[i].reorder, sizeof(*state->sources[i].reorder));
		free(state->sources[i].reorder);
	}
	explicit_bzero(state, sizeof(*state));
	free(state);
}

void
snapshot_free(struct snapshot *s, const struct snapshot *heir)
{
	if (s == NULL)
		return;
	list_free(&s->session_states, heir != NULL ? &heir->session_states : NULL, release_session);
	list_free(&s->path_states, heir != NULL ? &heir->path_states : NULL, release_plain);
	list_free(&s->peer_states, heir != NULL ? &heir->peer_states : NULL, release_plain);
	routes_free(&s->v4);
	routes_free(&s->v6);
	free(s->peers);
	free(s->sessions);
	free(s->session_slots);
	free(s->known);
	free(s->known_slots);
	free(s->plans);
	free(s->paths);
	free(s->lanes);
	free(s->shares);
	free(s->runs);
	free(s);
}
