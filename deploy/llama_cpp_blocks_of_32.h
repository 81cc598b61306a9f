// Matrix products of weights in blocks of 32 (Q8_0, Q5_0, Q4_0, IQ4_NL) by AVX-512 VNNI, where the processor has it.
// llama_cpp_build.cmake includes this inside llama.cpp's class tinyBLAS_Q0_AVX (ggml/src/ggml-cpu/llamafile/sgemm.cpp),
// whose `matmul` it replaces; everything else falls back to that class.
//
//     C[j, i] = h0 + h1,  h_p = sum over blocks l of (a_il b_jl) s_p,il,jl   (float32, from the first block to the last)
//
// a and b are the scales of the blocks, s the integer product of half p (16 weights and activations), which is exact.
// The order is the same for one column and for many: a token's result does not depend on what is computed beside it.
//
// 16 rows of weights are read together and transposed, so that each lane of 32 bits holds 4 neighbouring weights of one
// row: vpdpbusd multiplies four unsigned by four signed bytes and adds them to a lane, and one conversion to float
// serves 16 products. Weights are made unsigned by adding 128, so each lane starts at -128 times its activations' sum.
// Up to 4 columns use a transposed block at once; more columns keep the blocks of 16 rows, which fit the caches.

#if defined(__x86_64__) && defined(__AVX2__) && defined(__F16C__)
#define AVX512_VNNI __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

  public:
    void matmul(int64_t m, int64_t n) {
        if (holdfast_chosen(GGML_TYPE_Q8_0))
            matmul_vnni(m, n);
        else
            mnpack(0, m, 0, n);
    }

  private:
    static constexpr int ROWS = 16;      // that are transposed together
    static constexpr int COLUMNS = 64;   // that are prepared together

    struct alignas(64) Weights {   // a block of ROWS rows
        __m512i q[8];              // 4 of 8 rows each: lanes of 128 bits are half 0 and 1 of four rows, then of the next four
        __m512 d[2];               // scales, in the same lanes
    };

    struct alignas(64) Activations {   // what a block of one column needs beside its bytes
        int32_t start[8];
        float d;
    };

    struct Rows {
        const TA * at[ROWS];
        const char * later;     // the rows read two steps later, to be fetched by then
        int64_t later_bytes;    // of them for each block
    };

    template <typename T> static T * room(int64_t n) {
        static thread_local std::unique_ptr<T[]> kept;
        static thread_local int64_t size = 0;
        if (size < n) {
            kept.reset(new T[n]);
            size = n;
        }
        return kept.get();
    }

    AVX512_VNNI void matmul_vnni(int64_t m, int64_t n) {
        Activations * columns = room<Activations>(k * std::min<int64_t>(n, COLUMNS));
        Weights * kept = room<Weights>(k);
        const int64_t steps = (m + ROWS - 1) / ROWS, duty = (steps + nth - 1) / nth;
        const int64_t first = std::min(steps, duty * ith), last = std::min(steps, first + duty);
        for (int64_t jj = 0; jj < n; jj += COLUMNS) {
            const int64_t now = std::min<int64_t>(COLUMNS, n - jj);
            prepare(columns, jj, now);
            for (int64_t ii = ROWS * first; ii < ROWS * last; ii += ROWS) {
                Rows rows;
                for (int r = 0; r < ROWS; ++r)
                    rows.at[r] = A + lda * std::min(ii + r, m - 1);
                rows.later = (const char *) (A + lda * (ii + 2 * ROWS));
                rows.later_bytes = ROWS * lda * (int64_t) sizeof(TA) / k;
                if (now > 4)
                    for (int64_t l = 0; l < k; ++l)
                        transpose(rows, l, kept[l]);
                for (int64_t j = 0; j < now; j += 4)
                    tiles(std::min<int64_t>(4, now - j), now > 4 ? kept : nullptr, rows, columns + k * j, ii, jj + j, m);
            }
        }
    }

    AVX512_VNNI void prepare(Activations * to, int64_t jj, int64_t n) {
        const __m256i weight = _mm256_set1_epi8((char) 0x80);   // 128, unsigned
        for (int64_t j = 0; j < n; ++j)
            for (int64_t l = 0; l < k; ++l, ++to) {
                const TB * b = B + ldb * (jj + j) + l;
                __m256i sum = _mm256_dpbusd_epi32(_mm256_setzero_si256(), weight, load(b));
                sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0xb1));
                sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0x4e));
                _mm256_store_si256((__m256i *) to->start, _mm256_sub_epi32(_mm256_setzero_si256(), sum));
                to->d = unhalf(b->d);
            }
    }

    AVX512_VNNI inline __attribute__((always_inline)) void transpose(const Rows & rows, int64_t l, Weights & to) {
        const __m512i raise = _mm512_set1_epi8((char) 0x80);
        const __m512i spread = _mm512_set_epi32(7, 6, 5, 4, 7, 6, 5, 4, 3, 2, 1, 0, 3, 2, 1, 0);
        for (int64_t o = 0; o < rows.later_bytes; o += 64)
            _mm_prefetch(rows.later + l * rows.later_bytes + o, _MM_HINT_T1);
        for (int t = 0; t < 2; ++t) {
            const TA * const * r = rows.at + 8 * t;
            __m512i v[4];
            for (int i = 0; i < 4; ++i)
                v[i] = _mm512_xor_si512(raise, _mm512_inserti64x4(_mm512_castsi256_si512(load(r[i] + l)), load(r[4 + i] + l), 1));
            const __m512i x0 = _mm512_unpacklo_epi32(v[0], v[1]), x1 = _mm512_unpackhi_epi32(v[0], v[1]);
            const __m512i x2 = _mm512_unpacklo_epi32(v[2], v[3]), x3 = _mm512_unpackhi_epi32(v[2], v[3]);
            to.q[4 * t + 0] = _mm512_unpacklo_epi64(x0, x2);
            to.q[4 * t + 1] = _mm512_unpackhi_epi64(x0, x2);
            to.q[4 * t + 2] = _mm512_unpacklo_epi64(x1, x3);
            to.q[4 * t + 3] = _mm512_unpackhi_epi64(x1, x3);
            const __m256 d = _mm256_cvtph_ps(_mm_set_epi16(r[7][l].d, r[6][l].d, r[5][l].d, r[4][l].d,
                                                           r[3][l].d, r[2][l].d, r[1][l].d, r[0][l].d));
            to.d[t] = _mm512_permutexvar_ps(spread, _mm512_castps256_ps512(d));
        }
    }

    AVX512_VNNI void tiles(int64_t columns, const Weights * kept, const Rows & rows, const Activations * of, int64_t ii,
                           int64_t jj, int64_t m) {
        if (kept != nullptr)
            switch (columns) {
                case 4: return tile<4, true>(kept, rows, of, ii, jj, m);
                case 3: return tile<3, true>(kept, rows, of, ii, jj, m);
                case 2: return tile<2, true>(kept, rows, of, ii, jj, m);
                default: return tile<1, true>(kept, rows, of, ii, jj, m);
            }
        switch (columns) {
            case 4: return tile<4, false>(kept, rows, of, ii, jj, m);
            case 3: return tile<3, false>(kept, rows, of, ii, jj, m);
            case 2: return tile<2, false>(kept, rows, of, ii, jj, m);
            default: return tile<1, false>(kept, rows, of, ii, jj, m);
        }
    }

    // N columns from jj on of the rows from ii on, of their kept blocks or (KEPT false) of blocks transposed on the way
    template <int N, bool KEPT>
    AVX512_VNNI NOINLINE void tile(const Weights * kept, const Rows & rows, const Activations * of, int64_t ii, int64_t jj,
                                   int64_t m) {
        __m512 sums[2][N];
        for (int t = 0; t < 2; ++t)
            for (int j = 0; j < N; ++j)
                sums[t][j] = _mm512_setzero_ps();
        for (int64_t l = 0; l < k; ++l) {
            Weights own;
            if (!KEPT)
                transpose(rows, l, own);
            const Weights & w = KEPT ? kept[l] : own;
            for (int j = 0; j < N; ++j) {
                const Activations & a = of[k * j + l];
                const __m512i v = _mm512_broadcast_i64x4(load(B + ldb * (jj + j) + l));
                const __m512i start = _mm512_broadcast_i64x4(_mm256_load_si256((const __m256i *) a.start));
                const __m512 d = _mm512_set1_ps(a.d);
                for (int t = 0; t < 2; ++t) {
                    __m512i s = _mm512_dpbusd_epi32(start, w.q[4 * t + 0], _mm512_shuffle_epi32(v, (_MM_PERM_ENUM) 0x00));
                    s = _mm512_dpbusd_epi32(s, w.q[4 * t + 1], _mm512_shuffle_epi32(v, (_MM_PERM_ENUM) 0x55));
                    s = _mm512_dpbusd_epi32(s, w.q[4 * t + 2], _mm512_shuffle_epi32(v, (_MM_PERM_ENUM) 0xaa));
                    s = _mm512_dpbusd_epi32(s, w.q[4 * t + 3], _mm512_shuffle_epi32(v, (_MM_PERM_ENUM) 0xff));
                    sums[t][j] = _mm512_fmadd_ps(_mm512_mul_ps(w.d[t], d), _mm512_cvtepi32_ps(s), sums[t][j]);
                }
            }
        }
        for (int j = 0; j < N; ++j)
            for (int t = 0; t < 2; ++t) {
                float out[16];
                _mm512_storeu_ps(out, _mm512_add_ps(sums[t][j], _mm512_shuffle_f32x4(sums[t][j], sums[t][j], 0xb1)));
                for (int r = 0; r < 8 && ii + 8 * t + r < m; ++r)
                    C[ldc * (jj + j) + ii + 8 * t + r] = out[r < 4 ? r : r + 4];
            }
    }

#undef AVX512_VNNI
#else

  public:
    void matmul(int64_t m, int64_t n) {
        mnpack(0, m, 0, n);
    }

  private:
#endif
