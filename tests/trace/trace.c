/*
 * Records every seal of the engine. The linker puts this around aead_seal (--wrap, see tests/trace/build.py), so that the
 * engine's own sources know nothing of it. What aead.c seals by itself, known answers and zeros, does not pass here.
 *
 * An entry, as in tests/trace/entry.py: 16 digest of the key | 12 nonce | 32 header of the datagram.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <openssl/sha.h>

#include "aead.h"

#define DIGEST_BYTES	16
#define ENTRY_BYTES	(DIGEST_BYTES + NONCE_BYTES + HEADER_BYTES)

bool	__real_aead_seal(struct aead *, const uint8_t *, uint8_t *, const uint8_t *, size_t);
bool	__wrap_aead_seal(struct aead *, const uint8_t *, uint8_t *, const uint8_t *, size_t);

/* The file is opened anew for each entry, so that a test may name another at any time. Appending is atomic. */
static bool
append(const uint8_t entry[ENTRY_BYTES])
{
	const char *file = getenv("CENTIPEDE_TEST_TRACE");
	bool whole;
	int fd;

	if (file == NULL || (fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)) == -1)
		return (false);
	whole = write(fd, entry, ENTRY_BYTES) == ENTRY_BYTES;
	return (close(fd) == 0 && whole);
}

bool
__wrap_aead_seal(struct aead *a, const uint8_t *key, uint8_t *datagram, const uint8_t *plaintext, size_t bytes)
{
	uint8_t entry[ENTRY_BYTES] = { 0 }, digest[SHA256_DIGEST_LENGTH];

	if (!__real_aead_seal(a, key, datagram, plaintext, bytes))
		return (false);
	SHA256(key, KEY_BYTES, digest);
	memcpy(entry, digest, DIGEST_BYTES);
	memcpy(entry + DIGEST_BYTES + 4, datagram, 8);
	memcpy(entry + DIGEST_BYTES + NONCE_BYTES, datagram, HEADER_BYTES);
	if (!append(entry)) {
		perror("CENTIPEDE_TEST_TRACE names no file that can be written");
		abort();
	}
	return (true);
}
