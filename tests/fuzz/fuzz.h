/* What the fuzz targets share: an input that is eaten from the front. Copies are as large as their content, for ASan. */
#ifndef CENTIPEDE_FUZZ_H
#define CENTIPEDE_FUZZ_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct input {
	const uint8_t	*bytes;
	size_t		 left;
};

/* The next bytes of the input; zeros once it has ended. */
static inline void
eat(struct input *in, void *to, size_t bytes)
{
	size_t n = bytes < in->left ? bytes : in->left;

	memset(to, 0, bytes);
	if (n > 0)
		memcpy(to, in->bytes, n);
	in->bytes += n;
	in->left -= n;
}

static inline uint8_t
eat_byte(struct input *in)
{
	uint8_t byte;

	eat(in, &byte, 1);
	return (byte);
}

/* A copy of at most so many of the next bytes, exactly as long as *bytes says. */
static inline uint8_t *
eat_copy(struct input *in, size_t most, size_t *bytes)
{
	uint8_t *copy;

	*bytes = most < in->left ? most : in->left;
	if ((copy = malloc(*bytes)) == NULL && *bytes > 0)
		abort();
	eat(in, copy, *bytes);
	return (copy);
}

static inline void
check(int condition)
{
	if (!condition)
		abort();
}

#endif
