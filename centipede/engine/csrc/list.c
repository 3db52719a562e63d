#include "list.h"

int
compare_numbers(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a < b ? -1 : a > b);
}

void *
list_find(const struct list *l, uint64_t number)
{
	size_t low = 0, high = l->count, middle;
	uint64_t found;

	while (low < high) {
		middle = low + (high - low) / 2;
		found = *(uint64_t *)l->items[middle];
		if (found == number)
			return (l->items[middle]);
		if (found < number)
			low = middle + 1;
		else
			high = middle;
	}
	return (NULL);
}

bool
list_build(struct list *l, uint64_t *numbers, size_t count, const struct list *old, size_t item_bytes)
{
	size_t i;
	void *item;

	if (count == 0)
		return (true);
	if ((l->items = calloc(count, sizeof(*l->items))) == NULL)
		return (false);
	qsort(numbers, count, sizeof(*numbers), compare_numbers);
	for (i = 0; i < count; i++) {
		if (i > 0 && numbers[i] == numbers[i - 1])
			continue;
		if ((item = list_find(old, numbers[i])) == NULL) {
			if ((item = zalloc_lines(item_bytes)) == NULL)
				return (false);
			*(uint64_t *)item = numbers[i];
		}
		l->items[l->count++] = item;
	}
	return (true);
}

void
list_free(struct list *l, const struct list *heir, void (*release)(void *))
{
	size_t i;

	for (i = 0; i < l->count; i++)
		if (heir == NULL || list_find(heir, *(uint64_t *)l->items[i]) == NULL)
			release(l->items[i]);
	free(l->items);
	*l = (struct list){ 0 };
}
