/* The inner loops of the GPTQ solver on a CPU; compress/quantize/loops.py has them in tensors, and says what they compute.
 *
 * Matrices are row-major with `stride` floats per row; a row is one input, its entries are the outputs. Outputs are
 * independent of each other: a call handles the columns first..last, so that several threads share one matrix.
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
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline)) /* each clone gets its own */
#else
#define INLINE static inline
#endif
#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define TILE 64 /* outputs handled together: 128 rows of them fit into the first-level cache */
#define ROWS 256

static inline int least(ptrdiff_t a, ptrdiff_t b) { return (int)(a < b ? a : b); }

/* Scale and zero point per column: of `candidates` shrunken ranges the one whose least-squares scale leaves the
 * smallest sum of h (w - scale (code - zero))^2. `middle` > 0: fixed zero point. */
EXPORT FOR_EVERY_CPU void holdfast_fit(const float *W, ptrdiff_t stride, int rows, const float *h, ptrdiff_t first,
                                       ptrdiff_t last, int top, int middle, int candidates, float shrink, float *scale,
                                       float *zero) {
    for (ptrdiff_t c0 = first; c0 < last; c0 += TILE) {
        const int n = least(TILE, last - c0);
        float low[TILE] = {0}, high[TILE] = {0}, best[TILE], s[TILE], inverse[TILE], z[TILE], a[TILE], b[TILE];
        for (int i = 0; i < rows; i++) {
            if (h[i] <= 0) continue;
            const float *w = W + i * stride + c0;
            for (int c = 0; c < n; c++) {
                low[c] = w[c] < low[c] ? w[c] : low[c];
                high[c] = w[c] > high[c] ? w[c] : high[c];
            }
        }
        for (int c = 0; c < n; c++) best[c] = -1.0f;
        for (int k = 0; k < candidates; k++) {
            const float fraction = candidates > 1 ? 1.0f + (shrink - 1.0f) * (float)k / (float)(candidates - 1) : 1.0f;
            for (int c = 0; c < n; c++) {
                a[c] = b[c] = 0.0f;
                if (middle) {
                    const float reach = high[c] > -low[c] ? -high[c] : -low[c];
                    s[c] = reach * fraction / ((float)middle - 0.25f);
                    z[c] = (float)middle;
                } else {
                    s[c] = (high[c] - low[c]) * fraction / (float)top;
                }
                inverse[c] = fabsf(s[c]) > 1e-30f ? 1.0f / s[c] : 0.0f;
                if (!middle) {
                    const float at = rintf(-low[c] * fraction * inverse[c]);
                    z[c] = at < 1.0f ? 1.0f : at > (float)top ? (float)top : at;
                }
            }
            for (int i = 0; i < rows; i++) {
                const float weight = h[i];
                if (weight <= 0) continue;
                const float *w = W + i * stride + c0;
                for (int c = 0; c < n; c++) {
                    float q = rintf(w[c] * inverse[c] + z[c]);
                    q = q < 0.0f ? 0.0f : q > (float)top ? (float)top : q;
                    q -= z[c];
                    a[c] += weight * q * w[c];
                    b[c] += weight * q * q;
                }
            }
            for (int c = 0; c < n; c++) { /* error of the best scale for these codes: const - a^2 / b */
                const float gain = b[c] > 0 ? a[c] * a[c] / b[c] : 0.0f;
                if (gain > best[c]) {
                    best[c] = gain;
                    scale[c0 + c] = b[c] > 0 ? a[c] / b[c] : s[c];
                    zero[c0 + c] = z[c];
                }
            }
        }
    }
}

INLINE float nearest(float x, int top, const float *levels) {
    if (!levels) {
        x = rintf(x);
        return x < 0.0f ? 0.0f : x > (float)top ? (float)top : x;
    }
    float code = 0.0f;
    for (int k = 0; k < top; k++) code += x > 0.5f * (levels[k] + levels[k + 1]) ? 1.0f : 0.0f;
    return code;
}

/* One row: codes, the values they stand for. `keep`: NULL, or 0 where the value must be the grid's zero. */
INLINE void encode(const float *x, int n, const float *scale, const float *offset, int top, const float *levels,
                          const uint8_t *keep, uint8_t *codes, float *value) {
    float code[TILE];
    for (int c = 0; c < n; c++) {
        const float wanted = keep && !keep[c] ? 0.0f : x[c];
        code[c] = nearest((wanted - offset[c]) / scale[c], top, levels);
    }
    for (int c = 0; c < n; c++) codes[c] = (uint8_t)code[c];
    if (levels)
        for (int c = 0; c < n; c++) code[c] = levels[codes[c]];
    for (int c = 0; c < n; c++) value[c] = scale[c] * code[c] + offset[c];
}

/* Round `rows` (at most ROWS) inputs in order; each error divided by its pivot goes to E and, times U, to the later
 * rows. `sub`: row of scale and offset (both with `stride`) for each input. */
EXPORT FOR_EVERY_CPU void holdfast_feed(float *W, ptrdiff_t stride, int rows, const float *U, ptrdiff_t stride_u,
                                        ptrdiff_t first, ptrdiff_t last, const int32_t *sub, const float *scale,
                                        const float *offset, int top, const float *levels, const uint8_t *keep,
                                        uint8_t *codes, float *E) {
    float w[ROWS][TILE], value[TILE];
    for (ptrdiff_t c0 = first; c0 < last; c0 += TILE) {
        const int n = least(TILE, last - c0);
        for (int i = 0; i < rows; i++) memcpy(w[i], W + i * stride + c0, sizeof(float) * n);
        for (int i = 0; i < rows; i++) {
            const float *u = U + i * stride_u, pivot = 1.0f / u[i];
            float *e = E + i * stride + c0;
            const ptrdiff_t at = sub[i] * stride + c0, here = i * stride + c0;
            encode(w[i], n, scale + at, offset + at, top, levels, keep ? keep + here : NULL, codes + here, value);
            for (int c = 0; c < n; c++) e[c] = (w[i][c] - value[c]) * pivot;
            if (n == TILE) /* a fixed length keeps the error in registers */
                for (int j = i + 1; j < rows; j++)
                    for (int c = 0; c < TILE; c++) w[j][c] -= u[j] * e[c];
            else
                for (int j = i + 1; j < rows; j++)
                    for (int c = 0; c < n; c++) w[j][c] -= u[j] * e[c];
        }
    }
}

/* Coordinate descent over `rows` inputs: Q holds the values, G = H (Q - W) for these rows; both are brought up to date. */
EXPORT FOR_EVERY_CPU void holdfast_descend(float *Q, float *G, ptrdiff_t stride, int rows, const float *H,
                                           ptrdiff_t stride_h, ptrdiff_t first, ptrdiff_t last, const int32_t *sub,
                                           const float *scale, const float *offset, int top, const float *levels,
                                           const uint8_t *keep, uint8_t *codes) {
    float g[ROWS][TILE], x[TILE], value[TILE], delta[TILE];
    for (ptrdiff_t c0 = first; c0 < last; c0 += TILE) {
        const int n = least(TILE, last - c0);
        for (int i = 0; i < rows; i++) memcpy(g[i], G + i * stride + c0, sizeof(float) * n);
        for (int i = 0; i < rows; i++) {
            const float *row = H + i * stride_h, pivot = 1.0f / row[i];
            float *q = Q + i * stride + c0;
            const ptrdiff_t at = sub[i] * stride + c0, here = i * stride + c0;
            for (int c = 0; c < n; c++) x[c] = q[c] - g[i][c] * pivot;
            encode(x, n, scale + at, offset + at, top, levels, keep ? keep + here : NULL, codes + here, value);
            for (int c = 0; c < n; c++) {
                delta[c] = value[c] - q[c];
                q[c] = value[c];
            }
            if (n == TILE)
                for (int j = i + 1; j < rows; j++)
                    for (int c = 0; c < TILE; c++) g[j][c] += row[j] * delta[c];
            else
                for (int j = i + 1; j < rows; j++)
                    for (int c = 0; c < n; c++) g[j][c] += row[j] * delta[c];
        }
    }
}

#ifdef HOLDFAST_PYTHON
/* setuptools builds extension modules only; the functions above are called through ctypes. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", NULL, 0, NULL, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&module); }
#endif
