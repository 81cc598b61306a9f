/* ggml's K-quants, sixteen super-blocks side by side: the bytes of ggml_quantize_chunk, several times as fast.
 *
 * ggml (ggml/src/ggml-quants.c of llama.cpp) looks at one super-block of 256 weights after the other. Here a vector lane
 * is a super-block, and every lane does what ggml does, operation by operation in the same order, so that rounding is
 * the same too; therefore this file must be compiled without contraction of products and sums. export/gguf/ggml.py uses
 * it only where the bytes have been seen to be equal.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define FOR_EVERY_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EVERY_CPU
#endif
#define INLINE static inline __attribute__((always_inline)) /* each clone gets its own */
#define EXPORT __attribute__((visibility("default")))

#define LANES 16
#define WIDE 256 /* weights of a super-block */
#define TINY 1e-15f

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));

typedef struct {
    F x[WIDE], weight[WIDE], code[WIDE], scale[16], least[16], sum[16];
    I ls[16], lm[16]; /* quantized scales and minima */
    F d, dmin;
} Batch;

INLINE F pick(I mask, F yes, F no) { return (F)((mask & (I)yes) | (~mask & (I)no)); }
INLINE I pick_int(I mask, I yes, I no) { return (mask & yes) | (~mask & no); }
INLINE F all(float v) { return v - (F){0}; }
INLINE F size_of(F v) { return (F)((I)v & 0x7fffffff); }

INLINE int any(I mask) {
    int found = 0;
    for (int c = 0; c < LANES; c++) found |= mask[c];
    return found != 0;
}

INLINE I nearest(F v) { return ((I)(v + 12582912.0f) & 0x7fffff) - 0x400000; }

INLINE I within(I v, int low, int high) {
    int32_t a[LANES];
    memcpy(a, &v, sizeof a);
    for (int c = 0; c < LANES; c++) {
        a[c] = a[c] > high ? high : a[c];
        a[c] = a[c] < low ? low : a[c];
    }
    memcpy(&v, a, sizeof a);
    return v;
}

INLINE F real(I v) { return __builtin_convertvector(v, F); }
INLINE F rounded(F v, int low, int high) { return real(within(nearest(v), low, high)); }

INLINE F root(F v) {
    for (int c = 0; c < LANES; c++) v[c] = sqrtf(v[c]);
    return v;
}

/* IEEE half, rounded to nearest even. */
INLINE uint16_t to_half(float v) {
    uint32_t u;
    memcpy(&u, &v, 4);
    const uint32_t sign = u >> 16 & 0x8000, size = u & 0x7fffffff;
    if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (size < 0x38800000) { /* subnormal: the float adder rounds at the right place */
        float f;
        memcpy(&f, &size, 4);
        f += 0.5f;
        memcpy(&u, &f, 4);
        return (uint16_t)(sign | (u - 0x3f000000));
    }
    return (uint16_t)(sign | ((size + 0xfff + (size >> 13 & 1) - 0x38000000) >> 13));
}

INLINE float from_half(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, size = h & 0x7fff;
    if (size >= 0x7c00) return (size == 0x7c00 ? INFINITY : NAN) * (sign ? -1.0f : 1.0f);
    const float scaled = size < 0x400 ? (float)size * 0x1p-24f : ldexpf(1.0f + (float)(size & 0x3ff) * 0x1p-10f, (int)(size >> 10) - 15);
    return sign ? -scaled : scaled;
}

INLINE F through_half(F v) {
    for (int c = 0; c < LANES; c++) v[c] = from_half(to_half(v[c]));
    return v;
}

/* Scale and minimum of n weights (make_qkx2_quants, make_qkx3_quants): the best of several ranges by weighted error,
 * each with its least-squares line. */
INLINE void fit_line(int n, int top, const F *x, const F *w, F *code, F *scale_out, F *least_out, float first,
                     float step, int steps, int absolute) {
    F trial[32], low = x[0], high = x[0], sum_w = w[0], sum_x = w[0] * x[0];
    for (int i = 1; i < n; i++) {
        low = pick(x[i] < low, x[i], low);
        high = pick(x[i] > high, x[i], high);
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    low = pick(low > 0.0f, all(0.0f), low);
    const I flat = high == low;
    const F bottom = low;
    F inverse = (float)top / (high - low), scale = 1.0f / inverse, best = all(0.0f);
    for (int i = 0; i < n; i++) {
        code[i] = rounded(inverse * (x[i] - low), 0, top);
        const F gap = scale * code[i] + low - x[i];
        best += w[i] * (absolute ? size_of(gap) : gap * gap);
    }
    for (int k = 0; k <= steps; k++) {
        inverse = (first + step * (float)k + (float)top) / (high - low);
        F sum_l = all(0.0f), sum_l2 = all(0.0f), sum_xl = all(0.0f);
        for (int i = 0; i < n; i++) {
            const F l = rounded(inverse * (x[i] - low), 0, top), wl = w[i] * l;
            trial[i] = l;
            sum_l += wl;
            sum_l2 += wl * l;
            sum_xl += wl * x[i];
        }
        const F D = sum_w * sum_l2 - sum_l * sum_l;
        F s = (sum_w * sum_xl - sum_x * sum_l) / D, m = (sum_l2 * sum_x - sum_l * sum_xl) / D;
        const I positive = m > 0.0f;
        m = pick(positive, all(0.0f), m);
        s = pick(positive, sum_xl / sum_l2, s);
        F error = all(0.0f);
        for (int i = 0; i < n; i++) {
            const F gap = s * trial[i] + m - x[i];
            error += w[i] * (absolute ? size_of(gap) : gap * gap);
        }
        error = pick(D > 0.0f, error, all(INFINITY));
        const I better = error < best;
        if (!any(better)) continue;
        for (int i = 0; i < n; i++) code[i] = pick(better, trial[i], code[i]);
        best = pick(better, error, best);
        scale = pick(better, s, scale);
        low = pick(better, m, low);
    }
    for (int i = 0; i < n; i++) code[i] = pick(flat, all(0.0f), code[i]);
    *scale_out = pick(flat, all(0.0f), scale);
    *least_out = -pick(flat, bottom, low);
}

/* The entry of largest magnitude; of equal ones the first. */
INLINE F extreme(int n, const F *x, F *size) {
    F most = all(0.0f), reach = all(0.0f);
    for (int i = 0; i < n; i++) {
        const F a = size_of(x[i]);
        const I more = a > most;
        most = pick(more, a, most);
        reach = pick(more, x[i], reach);
    }
    *size = most;
    return reach;
}

/* Scale of n weights around zero (make_qx_quants with squared errors): codes 0 … 2 half - 1 stand for code - half. */
INLINE F fit_scale(int n, int half, const F *x, const F *w, F *code) {
    F size;
    const F reach = extreme(n, x, &size);
    const I none = size < TINY;
    F scale = all(0.0f), best = all(0.0f), trial[16];
    for (int k = -10; k <= 9; k++) { /* -10 stands for the plain range */
        if (k == 0) continue;
        const F inverse = -(k == -10 ? (float)half : (float)half + 0.1f * (float)k) / reach;
        F sumlx = all(0.0f), suml2 = all(0.0f);
        for (int i = 0; i < n; i++) {
            const F l = rounded(inverse * x[i], -half, half - 1);
            trial[i] = l + (float)half;
            sumlx += w[i] * x[i] * l;
            suml2 += w[i] * l * l;
        }
        if (k == -10) {
            for (int i = 0; i < n; i++) code[i] = trial[i];
            scale = pick(suml2 != 0.0f, sumlx / suml2, all(0.0f));
            best = scale * sumlx;
            continue;
        }
        const I better = pick(suml2 > 0.0f, sumlx * sumlx, all(-INFINITY)) > best * suml2;
        if (!any(better)) continue;
        for (int i = 0; i < n; i++) code[i] = pick(better, trial[i], code[i]);
        scale = pick(better, sumlx / suml2, scale);
        best = pick(better, scale * sumlx, best);
    }
    for (int i = 0; i < n; i++) code[i] = pick(none, all(0.0f), code[i]);
    return pick(none, all(0.0f), scale);
}

/* Codes 0 … top of n values that are not negative (make_qp_quants); gives their scale. */
INLINE F fit_positive(int n, int top, const F *x, const F *w, I *code) {
    F high = all(0.0f);
    for (int i = 0; i < n; i++) high = pick(high > x[i], high, x[i]);
    const I none = high < TINY;
    F inverse = (float)top / high, scale = 1.0f / inverse, best = all(0.0f);
    for (int i = 0; i < n; i++) {
        const F gap = x[i] - scale * real(nearest(inverse * x[i]) & 255);
        best += w[i] * gap * gap;
    }
    for (int k = -4; k <= 4; k++) {
        if (k == 0) continue;
        const F tried = (0.1f * (float)k + (float)top) / high, step = 1.0f / tried;
        F error = all(0.0f);
        for (int i = 0; i < n; i++) {
            const F gap = x[i] - step * rounded(tried * x[i], -0x400000, top);
            error += w[i] * gap * gap;
        }
        const I better = error < best;
        best = pick(better, error, best);
        inverse = pick(better, tried, inverse);
    }
    F sumlx = all(0.0f), suml2 = all(0.0f);
    for (int i = 0; i < n; i++) {
        const I l = within(nearest(inverse * x[i]), -0x400000, top);
        code[i] = l & 255;
        sumlx += w[i] * x[i] * real(l);
        suml2 += w[i] * real(l) * real(l);
    }
    for (int turn = 0; turn < 5; turn++) {
        F changed = all(0.0f);
        for (int i = 0; i < n; i++) {
            const F l = real(code[i]), lx = sumlx - w[i] * x[i] * l, l2 = suml2 - w[i] * l * l;
            const I other = within(nearest(x[i] * l2 / lx), -0x400000, top);
            const F o = real(other), slx = lx + w[i] * x[i] * o, sl2 = l2 + w[i] * o * o;
            F gain = pick(lx > 0.0f, slx * slx * suml2, all(-INFINITY));
            gain = pick(l2 > 0.0f, gain, all(-INFINITY));
            gain = pick(other != code[i], gain, all(-INFINITY));
            const I take = gain > sumlx * sumlx * sl2;
            code[i] = pick_int(take, other & 255, code[i]);
            sumlx = pick(take, slx, sumlx);
            suml2 = pick(take, sl2, suml2);
            changed = pick(take, all(1.0f), changed);
        }
        if (!any((I)changed)) break;
    }
    for (int i = 0; i < n; i++) code[i] = pick_int(none, (I){0}, code[i]);
    return pick(none, all(0.0f), pick(suml2 > 0.0f, sumlx / suml2, all(0.0f)));
}

/* Weights of the errors of sub-block j: n entries from `at`. */
INLINE void weigh_own(Batch *b, int at, int n) {
    F sum = all(0.0f);
    for (int i = 0; i < n; i++) sum += b->x[at + i] * b->x[at + i];
    const F mean = root(sum / (float)n);
    for (int i = 0; i < n; i++) b->weight[at + i] = mean + size_of(b->x[at + i]);
}

INLINE void weigh_imported(Batch *b, float factor) {
    F sum = all(0.0f);
    for (int i = 0; i < WIDE; i++) sum += b->x[i] * b->x[i];
    const F sigma2 = factor * sum / (float)WIDE;
    for (int i = 0; i < WIDE; i++) b->weight[i] = b->weight[i] * root(sigma2 + b->x[i] * b->x[i]);
}

INLINE void sum_weights(Batch *b, int n) {
    for (int j = 0; j < WIDE / n; j++) {
        b->sum[j] = all(0.0f);
        for (int i = 0; i < n; i++) b->sum[j] += b->weight[n * j + i];
    }
}

/* Final codes in the light of the rounded scales; sub-blocks whose scale came out as zero keep those of the fit. */
INLINE void encode(Batch *b, int n, int low, int high, int shift, int with_least) {
    for (int j = 0; j < WIDE / n; j++) {
        const F d = b->d * real(b->ls[j]);
        const F m = with_least ? b->dmin * real(b->lm[j]) : all(0.0f);
        const I keep = d == 0.0f;
        for (int i = n * j; i < n * (j + 1); i++) {
            const F v = with_least ? b->x[i] + m : b->x[i];
            b->code[i] = pick(keep, b->code[i], rounded(v / d, low, high) + (float)shift);
        }
    }
}

/* Scales and minima of all sub-blocks of n, quantized: with an importance matrix by weighted fits, without by the
 * largest. Leaves d and dmin as the halves that are stored. */
INLINE void lines(Batch *b, int n, int top, int scale_top, int imported, float first, float step, int steps,
                  int absolute) {
    for (int j = 0; j < WIDE / n; j++) {
        if (imported)
            fit_line(n, top, b->x + n * j, b->weight + n * j, b->code + n * j, b->scale + j, b->least + j, -0.9f, 0.05f,
                     36, 0);
        else
            fit_line(n, top, b->x + n * j, b->weight + n * j, b->code + n * j, b->scale + j, b->least + j, first, step,
                     steps, absolute);
    }
    if (imported) {
        b->d = through_half(fit_positive(WIDE / n, scale_top, b->scale, b->sum, b->ls));
        b->dmin = through_half(fit_positive(WIDE / n, scale_top, b->least, b->sum, b->lm));
        return;
    }
    F most = all(0.0f), deepest = all(0.0f);
    for (int j = 0; j < WIDE / n; j++) {
        most = pick(b->scale[j] > most, b->scale[j], most);
        deepest = pick(b->least[j] > deepest, b->least[j], deepest);
    }
    const F scaled = pick(most > 0.0f, (float)scale_top / most, all(0.0f));
    const F sunk = pick(deepest > 0.0f, (float)scale_top / deepest, all(0.0f));
    for (int j = 0; j < WIDE / n; j++) {
        b->ls[j] = nearest(scaled * b->scale[j]) & 255;
        b->lm[j] = nearest(sunk * b->least[j]) & 255;
        if (scale_top != 63) continue;
        b->ls[j] = within(b->ls[j], 0, 63);
        b->lm[j] = within(b->lm[j], 0, 63);
    }
    b->d = through_half(most / (float)scale_top);
    b->dmin = through_half(deepest / (float)scale_top);
}

INLINE void put_half(uint8_t *out, float v) {
    const uint16_t h = to_half(v);
    out[0] = (uint8_t)h;
    out[1] = (uint8_t)(h >> 8);
}

INLINE void put_scales_k4(uint8_t *out, const Batch *b, int c) {
    for (int j = 0; j < 8; j++) {
        const uint8_t s = (uint8_t)b->ls[j][c], m = (uint8_t)b->lm[j][c];
        if (j < 4) {
            out[j] = s;
            out[j + 4] = m;
        } else {
            out[j + 4] = (uint8_t)((s & 15) | (m & 15) << 4);
            out[j - 4] |= (uint8_t)(s >> 4 << 6);
            out[j] |= (uint8_t)(m >> 4 << 6);
        }
    }
}

INLINE void put_two_bits(uint8_t *out, const uint8_t *L) {
    for (int j = 0; j < WIDE; j += 128)
        for (int i = 0; i < 32; i++)
            out[j / 4 + i] = (uint8_t)((L[j + i] & 3) | (L[j + i + 32] & 3) << 2 | (L[j + i + 64] & 3) << 4 | (L[j + i + 96] & 3) << 6);
}

INLINE void q2_K(Batch *b, int imported) {
    if (imported) {
        weigh_imported(b, 1.0f);
        sum_weights(b, 16);
    } else {
        for (int i = 0; i < WIDE; i++) b->weight[i] = size_of(b->x[i]);
    }
    lines(b, 16, 3, 15, imported, -0.5f, 0.1f, 15, 1);
    for (int j = 0; j < 16; j++) {
        const I both = (b->ls[j] | b->lm[j] << 4) & 255;
        b->ls[j] = both & 15;
        b->lm[j] = both >> 4;
    }
    encode(b, 16, 0, 3, 0, 1);
}

INLINE void put_q2_K(uint8_t *out, const Batch *b, const uint8_t *L, int c) {
    for (int j = 0; j < 16; j++) out[j] = (uint8_t)(b->ls[j][c] | b->lm[j][c] << 4);
    put_two_bits(out + 16, L);
    put_half(out + 80, b->d[c]);
    put_half(out + 82, b->dmin[c]);
}

/* With an importance matrix only: without one ggml's own loop ends early and is as fast. */
INLINE void q3_K(Batch *b, int imported) {
    F codes[16] = {{0}};
    (void)imported;
    weigh_imported(b, 2.0f);
    sum_weights(b, 16);
    for (int j = 0; j < 16; j++)
        b->scale[j] = fit_scale(16, 4, b->x + 16 * j, b->weight + 16 * j, b->code + 16 * j);
    b->d = through_half(fit_scale(16, 32, b->scale, b->sum, codes));
    for (int j = 0; j < 16; j++) b->ls[j] = __builtin_convertvector(codes[j], I) - 32;
    encode(b, 16, -4, 3, 4, 0);
}

INLINE void put_q3_K(uint8_t *out, const Batch *b, const uint8_t *L, int c) {
    memset(out, 0, 110);
    for (int j = 0; j < WIDE; j++) out[j % 32] |= (uint8_t)((L[j] > 3) << (j / 32));
    put_two_bits(out + 32, L);
    uint8_t *scales = out + 96;
    for (int j = 0; j < 16; j++) {
        const int l = b->ls[j][c] + 32;
        if (j < 8)
            scales[j] = (uint8_t)(l & 15);
        else
            scales[j - 8] |= (uint8_t)((l & 15) << 4);
        scales[8 + j % 4] |= (uint8_t)(l >> 4 << 2 * (j / 4));
    }
    put_half(out + 108, b->d[c]);
}

INLINE void weigh_k4(Batch *b, int imported) {
    if (imported) {
        weigh_imported(b, 2.0f);
        sum_weights(b, 32);
    } else {
        for (int j = 0; j < 8; j++) weigh_own(b, 32 * j, 32);
    }
}

INLINE void q4_K(Batch *b, int imported) {
    weigh_k4(b, imported);
    lines(b, 32, 15, 63, imported, -1.0f, 0.1f, 20, 0);
    encode(b, 32, 0, 15, 0, 1);
}

INLINE void put_q4_K(uint8_t *out, const Batch *b, const uint8_t *L, int c) {
    put_half(out, b->d[c]);
    put_half(out + 2, b->dmin[c]);
    put_scales_k4(out + 4, b, c);
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 32; i++) out[16 + 32 * j + i] = (uint8_t)(L[64 * j + i] | L[64 * j + i + 32] << 4);
}

INLINE void q5_K(Batch *b, int imported) {
    weigh_k4(b, imported);
    lines(b, 32, 31, 63, imported, -0.5f, 0.1f, 15, 0);
    encode(b, 32, 0, 31, 0, 1);
}

INLINE void put_q5_K(uint8_t *out, const Batch *b, const uint8_t *L, int c) {
    put_half(out, b->d[c]);
    put_half(out + 2, b->dmin[c]);
    put_scales_k4(out + 4, b, c);
    memset(out + 16, 0, 32);
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 32; i++) {
            const uint8_t a = L[64 * j + i], z = L[64 * j + i + 32];
            out[48 + 32 * j + i] = (uint8_t)((a & 15) | (z & 15) << 4);
            out[16 + i] |= (uint8_t)((a >> 4) << 2 * j | (z >> 4) << (2 * j + 1));
        }
}

INLINE void q6_K(Batch *b, int imported) {
    F size;
    for (int j = 0; j < 16; j++) {
        if (!imported)
            for (int i = 16 * j; i < 16 * (j + 1); i++) b->weight[i] = b->x[i] * b->x[i];
        b->scale[j] = fit_scale(16, 32, b->x + 16 * j, b->weight + 16 * j, b->code + 16 * j);
    }
    const F most = extreme(16, b->scale, &size), inverse = -128.0f / most;
    const I none = size < TINY;
    b->d = pick(none, all(0.0f), through_half(1.0f / inverse));
    for (int j = 0; j < 16; j++) {
        const I l = within(nearest(inverse * b->scale[j]), -0x400000, 127);
        b->ls[j] = pick_int(none, (I){0}, ((l + 128) & 255) - 128);
    }
    encode(b, 16, -32, 31, 32, 0);
    for (int i = 0; i < WIDE; i++) b->code[i] = pick(none, all(0.0f), b->code[i]);
}

INLINE void put_q6_K(uint8_t *out, const Batch *b, const uint8_t *L, int c) {
    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *q = L + 128 * j + i;
            out[64 * j + i] = (uint8_t)((q[0] & 15) | (q[64] & 15) << 4);
            out[64 * j + i + 32] = (uint8_t)((q[32] & 15) | (q[96] & 15) << 4);
            out[128 + 32 * j + i] = (uint8_t)((q[0] >> 4) | (q[32] >> 4) << 2 | (q[64] >> 4) << 4 | (q[96] >> 4) << 6);
        }
    for (int j = 0; j < 16; j++) out[192 + j] = (uint8_t)b->ls[j][c];
    put_half(out + 208, b->d[c]);
}

/* Lane c <- super-block `first + c`; lanes beyond the last repeat it. */
INLINE void load(Batch *b, const float *x, const float *importance, ptrdiff_t first, ptrdiff_t count, ptrdiff_t per_row) {
    for (int c = 0; c < LANES; c++) {
        const ptrdiff_t block = first + c < count ? first + c : count - 1;
        const float *values = x + WIDE * block, *imported = importance ? importance + WIDE * (block % per_row) : NULL;
        for (int i = 0; i < WIDE; i++) ((float *)&b->x[i])[c] = values[i];
        if (imported)
            for (int i = 0; i < WIDE; i++) ((float *)&b->weight[i])[c] = imported[i];
    }
}

/* float32 [rows, columns] -> blocks; `importance` float32 [columns] or NULL; columns are a multiple of 256. */
#define QUANTIZER(kind, bytes)                                                                                         \
    EXPORT FOR_EVERY_CPU void holdfast_##kind(const float *x, uint8_t *out, ptrdiff_t rows, ptrdiff_t columns,         \
                                              const float *importance) {                                               \
        const ptrdiff_t per_row = columns / WIDE, count = rows * per_row;                                              \
        Batch b;                                                                                                       \
        uint8_t L[LANES][WIDE];                                                                                        \
        for (ptrdiff_t first = 0; first < count; first += LANES) {                                                     \
            load(&b, x, importance, first, count, per_row);                                                            \
            kind(&b, importance != NULL);                                                                              \
            for (int i = 0; i < WIDE; i++)                                                                             \
                for (int c = 0; c < LANES; c++) L[c][i] = (uint8_t)b.code[i][c];                                       \
            for (int c = 0; c < LANES && first + c < count; c++) put_##kind(out + bytes * (first + c), &b, L[c], c);   \
        }                                                                                                              \
    }

QUANTIZER(q2_K, 84)
QUANTIZER(q3_K, 110)
QUANTIZER(q4_K, 144)
QUANTIZER(q5_K, 176)
QUANTIZER(q6_K, 210)

#ifdef HOLDFAST_PYTHON
/* setuptools builds extension modules only; the functions above are called through ctypes. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kquants", NULL, 0, NULL, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__kquants(void) { return PyModule_Create(&module); }
#endif
