/* SHA-256 (FIPS 180-4): SHA-NI, ARMv8 Crypto Extensions, or portable C, chosen at run time. */

#include "sha256.h"

#include <string.h>

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define HAVE_SHA_NI 1
#include <immintrin.h>
#endif

#if defined(__aarch64__) && defined(__GNUC__)
#define HAVE_ARMV8 1
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_SHA2
#define HWCAP_SHA2 (1 << 6)
#endif
#endif
#endif

#define K epoch_sha256_k

const uint32_t epoch_sha256_k[64] __attribute__((aligned(64))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static const uint32_t INITIAL[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static uint32_t load_be32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void store_be32(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

/* ---- portable ------------------------------------------------------------------------------ */

#define ROTR(x, n) ((x) >> (n) | (x) << (32 - (n)))

static void blocks_portable(uint32_t h[8], const uint8_t *data, size_t blocks) {
    uint32_t w[64];
    for (; blocks; blocks--, data += EPOCH_SHA256_BLOCK) {
        for (int i = 0; i < 16; i++) w[i] = load_be32(data + 4 * i);
        for (int i = 16; i < 64; i++) {
            uint32_t s0 = ROTR(w[i - 15], 7) ^ ROTR(w[i - 15], 18) ^ (w[i - 15] >> 3);
            uint32_t s1 = ROTR(w[i - 2], 17) ^ ROTR(w[i - 2], 19) ^ (w[i - 2] >> 10);
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], k = h[7];
        for (int i = 0; i < 64; i++) {
            uint32_t t1 = k + (ROTR(e, 6) ^ ROTR(e, 11) ^ ROTR(e, 25)) + (g ^ (e & (f ^ g))) + K[i] + w[i];
            uint32_t t2 = (ROTR(a, 2) ^ ROTR(a, 13) ^ ROTR(a, 22)) + ((a & b) | (c & (a | b)));
            k = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e, h[5] += f, h[6] += g, h[7] += k;
    }
}

/* ---- SHA-NI (Intel SDM vol. 2, SHA256RNDS2, SHA256MSG1, SHA256MSG2) -------------------------- */

#ifdef HAVE_SHA_NI
__attribute__((target("sha,sse4.1,ssse3")))
static void blocks_sha_ni(uint32_t h[8], const uint8_t *data, size_t blocks) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    /* The instructions want the state as ABEF and CDGH. */
    __m128i dcba = _mm_loadu_si128((const __m128i *)&h[0]);
    __m128i hgfe = _mm_loadu_si128((const __m128i *)&h[4]);
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xB1);
    __m128i efgh = _mm_shuffle_epi32(hgfe, 0x1B);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
    __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);

    for (; blocks; blocks--, data += EPOCH_SHA256_BLOCK) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i m[4];
        for (int i = 0; i < 4; i++)
            m[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), swap);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            __m128i wk = _mm_add_epi32(m[i & 3], _mm_load_si128((const __m128i *)&K[4 * i]));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
            if (i >= 3 && i < 15) {
                __m128i w7 = _mm_alignr_epi8(m[i & 3], m[(i - 1) & 3], 4);
                m[(i + 1) & 3] = _mm_sha256msg2_epu32(_mm_add_epi32(m[(i + 1) & 3], w7), m[i & 3]);
            }
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0E));
            if (i >= 1 && i < 13) m[(i - 1) & 3] = _mm_sha256msg1_epu32(m[(i - 1) & 3], m[i & 3]);
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }

    __m128i feba = _mm_shuffle_epi32(abef, 0x1B);
    __m128i dchg = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)&h[0], _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128((__m128i *)&h[4], _mm_alignr_epi8(dchg, feba, 8));
}
#endif

/* ---- ARMv8 Crypto Extensions (Arm ARM, SHA256H, SHA256H2, SHA256SU0, SHA256SU1) --------------- */

#ifdef HAVE_ARMV8
__attribute__((target("+crypto")))
static void blocks_armv8(uint32_t h[8], const uint8_t *data, size_t blocks) {
    uint32x4_t abcd = vld1q_u32(&h[0]), efgh = vld1q_u32(&h[4]);
    for (; blocks; blocks--, data += EPOCH_SHA256_BLOCK) {
        const uint32x4_t abcd_before = abcd, efgh_before = efgh;
        uint32x4_t m[4];
        for (int i = 0; i < 4; i++)
            m[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            uint32x4_t wk = vaddq_u32(m[i & 3], vld1q_u32(&K[4 * i]));
            if (i < 12)
                m[i & 3] = vsha256su1q_u32(vsha256su0q_u32(m[i & 3], m[(i + 1) & 3]),
                                           m[(i + 2) & 3], m[(i + 3) & 3]);
            uint32x4_t abcd_round = abcd;
            abcd = vsha256hq_u32(abcd, efgh, wk);
            efgh = vsha256h2q_u32(efgh, abcd_round, wk);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(&h[0], abcd);
    vst1q_u32(&h[4], efgh);
}
#endif

/* ---- choice ---------------------------------------------------------------------------------- */

epoch_sha256_blocks epoch_sha256_find(const char *name) {
#ifdef HAVE_SHA_NI
    if (!strcmp(name, "sha-ni")) {
        unsigned a, b, c, d;
        __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
        if (a < 7) return NULL;
        __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
        /* CPUID.7.0:EBX bit 29 is SHA; every CPU that has it has SSE4.1 too. */
        return (b >> 29 & 1) ? blocks_sha_ni : NULL;
    }
#endif
#ifdef HAVE_ARMV8
    if (!strcmp(name, "armv8")) {
#if defined(__linux__)
        return (getauxval(AT_HWCAP) & HWCAP_SHA2) ? blocks_armv8 : NULL;
#elif defined(__APPLE__)
        return blocks_armv8; /* every 64-bit Apple CPU has it */
#else
        return NULL;
#endif
    }
#endif
    if (!strcmp(name, "portable")) return blocks_portable;
    return NULL;
}

static epoch_sha256_blocks chosen = blocks_portable;
static const char *chosen_name = "portable";

void epoch_sha256_setup(void) {
    static const char *const best_first[] = {"sha-ni", "armv8", "portable"};
    for (int i = 0; i < 3; i++) {
        epoch_sha256_blocks found = epoch_sha256_find(best_first[i]);
        if (found) {
            chosen = found;
            chosen_name = best_first[i];
            return;
        }
    }
}

const char *epoch_sha256_implementation(void) { return chosen_name; }

/* ---- the running digest ----------------------------------------------------------------------- */

void epoch_sha256_init(epoch_sha256 *ctx) {
    memset(ctx, 0, sizeof *ctx);
    memcpy(ctx->h, INITIAL, sizeof INITIAL);
}

void epoch_sha256_update(epoch_sha256 *ctx, const void *data, size_t length) {
    const uint8_t *p = data;
    size_t waiting = ctx->length % EPOCH_SHA256_BLOCK;
    ctx->length += length;
    if (waiting) {
        size_t take = EPOCH_SHA256_BLOCK - waiting;
        if (take > length) take = length;
        memcpy(ctx->pending + waiting, p, take);
        if (waiting + take < EPOCH_SHA256_BLOCK) return;
        chosen(ctx->h, ctx->pending, 1);
        p += take;
        length -= take;
    }
    size_t blocks = length / EPOCH_SHA256_BLOCK;
    if (blocks) chosen(ctx->h, p, blocks);
    size_t rest = length % EPOCH_SHA256_BLOCK;
    if (rest) memcpy(ctx->pending, p + blocks * EPOCH_SHA256_BLOCK, rest);
}

void epoch_sha256_final(const epoch_sha256 *ctx, uint8_t digest[EPOCH_SHA256_DIGEST]) {
    /* Padding: 0x80, zeros, and the length in bits as a 64-bit big-endian number. */
    uint8_t tail[2 * EPOCH_SHA256_BLOCK] = {0};
    size_t waiting = ctx->length % EPOCH_SHA256_BLOCK;
    size_t blocks = waiting < EPOCH_SHA256_BLOCK - 8 ? 1 : 2;
    uint64_t bits = ctx->length * 8;
    uint32_t h[8];
    memcpy(h, ctx->h, sizeof h);
    memcpy(tail, ctx->pending, waiting);
    tail[waiting] = 0x80;
    store_be32(tail + blocks * EPOCH_SHA256_BLOCK - 8, (uint32_t)(bits >> 32));
    store_be32(tail + blocks * EPOCH_SHA256_BLOCK - 4, (uint32_t)bits);
    chosen(h, tail, blocks);
    for (int i = 0; i < 8; i++) store_be32(digest + 4 * i, h[i]);
}
