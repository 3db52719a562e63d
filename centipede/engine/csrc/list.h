/*
 * Lists of what outlives a table: items by number, sorted, each taken over from the list before or new.
 */
#ifndef CENTIPEDE_LIST_H
#define CENTIPEDE_LIST_H

#include "common.h"

struct list {
	void		**items;	/* each begins with its uint64_t number */
	size_t		count;
};

int		 compare_numbers(const void *, const void *);	/* of what begins with a uint64_t, for qsort and bsearch */
void		*list_find(const struct list *, uint64_t number);
/* One item for each of the numbers (sorted here, repeats allowed): taken from the old list, or new and zero. */
bool		 list_build(struct list *, uint64_t *numbers, size_t count, const struct list *old, size_t item_bytes);
/* Empty a list; items that are also in `heir`, if there is one, stay. */
void		 list_free(struct list *, const struct list *heir, void (*release)(void *item));

#endif
