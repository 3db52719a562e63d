/*
 * Replay window without locks. A counter lives in exactly one word, a word's tag only grows, and acceptance is one
 * compare-and-swap: however threads interleave, a counter is New at most once. Nothing slides and nothing is zeroed.
 *
 * No ordering beyond the word's own is needed, since no other memory is published through it.
 */
#include "window.h"

static inline enum verdict
judge(uint64_t word, uint64_t tag, uint64_t bit)
{
	if (word >> 32 > tag)
		return (VERDICT_OLD);
	return (word >> 32 == tag && (word & bit) != 0 ? VERDICT_SEEN : VERDICT_NEW);
}

/* What window_insert() would say now. */
enum verdict
window_test(const struct window *w, uint64_t counter)
{
	uint64_t block = counter >> 5;

	if (unlikely(counter >= COUNTER_LIMIT))
		return (VERDICT_OLD);
	return (judge(atomic_load_explicit(&w->words[block % WINDOW_WORDS], memory_order_relaxed),
	    block / WINDOW_WORDS, 1ull << (counter & 31)));
}

/* Accept a counter whose packet was authentic. */
enum verdict
window_insert(struct window *w, uint64_t counter)
{
	uint64_t block = counter >> 5, tag = block / WINDOW_WORDS, bit = 1ull << (counter & 31);
	_Atomic uint64_t *slot = &w->words[block % WINDOW_WORDS];
	uint64_t word = atomic_load_explicit(slot, memory_order_relaxed);
	enum verdict verdict;

	if (unlikely(counter >= COUNTER_LIMIT))
		return (VERDICT_OLD);
	do {
		if ((verdict = judge(word, tag, bit)) != VERDICT_NEW)
			return (verdict);
	} while (!atomic_compare_exchange_weak_explicit(slot, &word,
	    word >> 32 == tag ? word | bit : tag << 32 | bit, memory_order_relaxed, memory_order_relaxed));
	return (VERDICT_NEW);
}
