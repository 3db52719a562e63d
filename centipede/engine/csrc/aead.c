/*
 * Two implementations behind one switch: Intel's ipsec-mb where its library is installed, else libcrypto.
 *
 * ipsec-mb is loaded at run time, so that one build serves machines with and without it. Its job structure is known only
 * from the header this file was compiled with, hence the check that the library's version is the header's, and the known
 * answers that either implementation must give before it is used.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "aead.h"

#ifdef __has_include
#if __has_include(<intel-ipsec-mb.h>)
#include <intel-ipsec-mb.h>
#define HAVE_IPSEC_MB
#endif
#endif

struct aead {
	uint8_t		 nonce[16];
	uint8_t		 tag[TAG_BYTES];
#ifdef HAVE_IPSEC_MB
	IMB_MGR		*mb;	/* NULL: libcrypto */
#endif
	EVP_CIPHER_CTX	*seal, *open;
	char		 name[32];
};

static void
set_nonce(struct aead *a, const uint8_t *datagram)
{
	memset(a->nonce, 0, 4);
	memcpy(a->nonce + 4, datagram, 8);
}

/* --- ipsec-mb */

#ifdef HAVE_IPSEC_MB

#define STRING_(x)	#x
#define STRING(x)	STRING_(x)

static struct {
	pthread_once_t	 once;
	char		 missing[160];
	IMB_MGR		*(*alloc)(uint64_t);
	void		 (*release)(IMB_MGR *);
	void		 (*init)(IMB_MGR *, IMB_ARCH *);
	unsigned	 version;
} mb = { .once = PTHREAD_ONCE_INIT };

static void
mb_load(void)
{
	unsigned (*version)(void);
	char soname[32];
	void *library;

	snprintf(soname, sizeof(soname), "libIPSec_MB.so.%d", IMB_VERSION_NUM >> 16);
	if ((library = dlopen(soname, RTLD_NOW | RTLD_LOCAL)) == NULL) {
		snprintf(mb.missing, sizeof(mb.missing), "%s is not installed", soname);
		return;
	}
	/* POSIX allows this conversion of an object pointer to a function pointer, ISO C does not name it. */
	*(void **)&version = dlsym(library, "imb_get_version");
	*(void **)&mb.alloc = dlsym(library, "alloc_mb_mgr");
	*(void **)&mb.release = dlsym(library, "free_mb_mgr");
	*(void **)&mb.init = dlsym(library, "init_mb_mgr_auto");
	if (version == NULL || mb.alloc == NULL || mb.release == NULL || mb.init == NULL) {
		snprintf(mb.missing, sizeof(mb.missing), "%s lacks a function the engine needs", soname);
		return;
	}
	mb.version = version();
	if (mb.version >> 8 != IMB_VERSION_NUM >> 8)
		snprintf(mb.missing, sizeof(mb.missing), "%s is version %u.%u, the engine was built for %u.%u", soname,
		    mb.version >> 16, mb.version >> 8 & 0xff, IMB_VERSION_NUM >> 16, IMB_VERSION_NUM >> 8 & 0xff);
}

const char *
aead_ipsec_mb_missing(void)
{
	pthread_once(&mb.once, mb_load);
	return (mb.missing[0] != '\0' ? mb.missing : NULL);
}

static bool
mb_new(struct aead *a)
{
	if (aead_ipsec_mb_missing() != NULL || (a->mb = mb.alloc(0)) == NULL)
		return (false);
	mb.init(a->mb, NULL);
	snprintf(a->name, sizeof(a->name), "ipsec-mb %u.%u", mb.version >> 16, mb.version >> 8 & 0xff);
	return (a->mb->get_next_job != NULL);
}

/* Run one job to its end. The tag lands in a->tag; true if the job was done. */
static bool
mb_run(struct aead *a, const uint8_t *key, const uint8_t *aad, const uint8_t *src, uint8_t *dst, size_t bytes, bool seal)
{
	IMB_JOB *job = IMB_GET_NEXT_JOB(a->mb);

	job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
	job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
	job->cipher_direction = seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
	job->chain_order = seal ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
	job->enc_keys = job->dec_keys = key;
	job->key_len_in_bytes = KEY_BYTES;
	job->src = src;
	job->dst = dst;
	job->cipher_start_src_offset_in_bytes = job->hash_start_src_offset_in_bytes = 0;
	job->msg_len_to_cipher_in_bytes = job->msg_len_to_hash_in_bytes = bytes;
	job->iv = a->nonce;
	job->iv_len_in_bytes = NONCE_BYTES;
	job->u.CHACHA20_POLY1305.aad = aad;
	job->u.CHACHA20_POLY1305.aad_len_in_bytes = AAD_BYTES;
	job->auth_tag_output = a->tag;
	job->auth_tag_output_len_in_bytes = TAG_BYTES;
	/* 1.3 completes the job within the submission; a version that batches would answer NULL, hence the flush. */
	if ((job = IMB_SUBMIT_JOB_NOCHECK(a->mb)) == NULL)
		job = IMB_FLUSH_JOB(a->mb);
	return (job != NULL && job->status == IMB_STATUS_COMPLETED);
}

#else

const char *
aead_ipsec_mb_missing(void)
{
	return ("the engine was built without the header of ipsec-mb");
}

#endif

/* --- libcrypto */

static bool
evp_new(struct aead *a)
{
	const EVP_CIPHER *cipher = EVP_chacha20_poly1305();

	a->seal = EVP_CIPHER_CTX_new();
	a->open = EVP_CIPHER_CTX_new();
	snprintf(a->name, sizeof(a->name), "libcrypto %u.%u", OPENSSL_version_major(), OPENSSL_version_minor());
	return (a->seal != NULL && a->open != NULL && EVP_EncryptInit_ex(a->seal, cipher, NULL, NULL, NULL) == 1 &&
	    EVP_DecryptInit_ex(a->open, cipher, NULL, NULL, NULL) == 1);
}

static bool
evp_seal(struct aead *a, const uint8_t *key, uint8_t *datagram, const uint8_t *plaintext, size_t bytes)
{
	uint8_t none[16];
	int n;

	return (EVP_EncryptInit_ex(a->seal, NULL, NULL, key, a->nonce) == 1 &&
	    EVP_EncryptUpdate(a->seal, NULL, &n, datagram, AAD_BYTES) == 1 &&
	    (bytes == 0 || EVP_EncryptUpdate(a->seal, datagram + HEADER_BYTES, &n, plaintext, (int)bytes) == 1) &&
	    EVP_EncryptFinal_ex(a->seal, none, &n) == 1 &&
	    EVP_CIPHER_CTX_ctrl(a->seal, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, datagram + AAD_BYTES) == 1);
}

static bool
evp_open(struct aead *a, const uint8_t *key, uint8_t *datagram, size_t bytes)
{
	uint8_t none[16];
	int n;

	return (EVP_DecryptInit_ex(a->open, NULL, NULL, key, a->nonce) == 1 &&
	    EVP_CIPHER_CTX_ctrl(a->open, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, datagram + AAD_BYTES) == 1 &&
	    EVP_DecryptUpdate(a->open, NULL, &n, datagram, AAD_BYTES) == 1 &&
	    (bytes == 0 || EVP_DecryptUpdate(a->open, datagram + HEADER_BYTES, &n, datagram + HEADER_BYTES,
	    (int)bytes) == 1) && EVP_DecryptFinal_ex(a->open, none, &n) == 1);
}

/* --- either */

bool
aead_seal(struct aead *a, const uint8_t key[KEY_BYTES], uint8_t *datagram, const uint8_t *plaintext, size_t bytes)
{
	set_nonce(a, datagram);
#ifdef HAVE_IPSEC_MB
	if (a->mb != NULL) {
		if (!mb_run(a, key, datagram, plaintext, datagram + HEADER_BYTES, bytes, true))
			return (false);
		memcpy(datagram + AAD_BYTES, a->tag, TAG_BYTES);
		return (true);
	}
#endif
	return (evp_seal(a, key, datagram, plaintext, bytes));
}

bool
aead_open(struct aead *a, const uint8_t key[KEY_BYTES], uint8_t *datagram, size_t datagram_bytes)
{
	size_t bytes = datagram_bytes - HEADER_BYTES;

	set_nonce(a, datagram);
#ifdef HAVE_IPSEC_MB
	if (a->mb != NULL)
		return (mb_run(a, key, datagram, datagram + HEADER_BYTES, datagram + HEADER_BYTES, bytes, false) &&
		    CRYPTO_memcmp(a->tag, datagram + AAD_BYTES, TAG_BYTES) == 0);
#endif
	return (evp_open(a, key, datagram, bytes));
}

void
aead_forget(struct aead *a)
{
	static const uint8_t zeros[KEY_BYTES + HEADER_BYTES];
	uint8_t datagram[HEADER_BYTES + 1] = { 0 };

	/* Either implementation keeps at most the key of its last packet. */
	(void)aead_seal(a, zeros, datagram, zeros, 1);
	(void)aead_open(a, zeros, datagram, sizeof(datagram));
}

/* Known answers, computed with another implementation (the "cryptography" package), and a tag that must be refused. */
static bool
answers(struct aead *a)
{
	static const uint8_t tag[3][TAG_BYTES] = {
		{ 0xa7, 0x5d, 0x1d, 0xfa, 0x86, 0xab, 0x13, 0x94, 0x31, 0xdb, 0x67, 0xbc, 0xf5, 0xe9, 0xf0, 0x88 },
		{ 0x81, 0x3d, 0x47, 0x9f, 0x6b, 0xca, 0xa9, 0x4b, 0x41, 0xd8, 0xed, 0x2e, 0xd4, 0x65, 0x67, 0x06 },
		{ 0x4d, 0xd8, 0xb1, 0x36, 0x15, 0x9a, 0x49, 0xc0, 0x30, 0x46, 0x25, 0x91, 0xc3, 0xad, 0xb0, 0xf1 },
	};
	static const size_t sizes[3] = { 0, 63, 1420 };
	uint8_t key[KEY_BYTES], plaintext[1420], datagram[HEADER_BYTES + 1420];
	size_t i, n;

	for (i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)i;
	for (i = 0; i < sizeof(plaintext); i++)
		plaintext[i] = (uint8_t)(i * 7);
	for (n = 0; n < 3; n++) {
		for (i = 0; i < AAD_BYTES; i++)
			datagram[i] = (uint8_t)(0x10 + i + n);
		if (!aead_seal(a, key, datagram, plaintext, sizes[n]) ||
		    memcmp(datagram + AAD_BYTES, tag[n], TAG_BYTES) != 0 ||
		    !aead_open(a, key, datagram, HEADER_BYTES + sizes[n]) ||
		    memcmp(datagram + HEADER_BYTES, plaintext, sizes[n]) != 0)
			return (false);
		datagram[AAD_BYTES] ^= 1;
		if (aead_open(a, key, datagram, HEADER_BYTES + sizes[n]))
			return (false);
	}
	return (true);
}

/* NULL if the implementation is not here or answers wrongly; ENGINE_AEAD_BEST never fails for want of ipsec-mb. */
struct aead *
aead_new(enum engine_aead kind)
{
	struct aead *a;
	bool ready;

	if ((a = zalloc_lines(sizeof(*a))) == NULL)
		return (NULL);
	if (kind == ENGINE_AEAD_LIBCRYPTO)
		ready = evp_new(a);
	else
#ifdef HAVE_IPSEC_MB
		ready = mb_new(a);
#else
		ready = false;
#endif
	if (ready && answers(a))
		return (a);
	aead_free(a);
	return (kind == ENGINE_AEAD_BEST ? aead_new(ENGINE_AEAD_LIBCRYPTO) : NULL);
}

void
aead_free(struct aead *a)
{
	if (a == NULL)
		return;
#ifdef HAVE_IPSEC_MB
	if (a->mb != NULL)
		mb.release(a->mb);
#endif
	EVP_CIPHER_CTX_free(a->seal);
	EVP_CIPHER_CTX_free(a->open);
	explicit_bzero(a, sizeof(*a));
	free(a);
}

const char *
aead_name(const struct aead *a)
{
	return (a->name);
}
