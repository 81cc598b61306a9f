// Which weights llama_cpp_blocks_of_32.h multiplies, for the rest of llama.cpp. llama_cpp_build.cmake includes this in
// ggml/src/ggml-cpu/llamafile/sgemm.cpp. Chosen weights take the same way for one column and for many, and are not
// stored in another order when a model is loaded (ggml's repack).

extern "C" bool holdfast_chosen(int type) {
    static const char built[] __attribute__((used)) = "llama_cpp_chosen";   // the tests look for it
#if defined(__x86_64__) && defined(__AVX2__) && defined(__F16C__)
    static const bool vnni = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                             __builtin_cpu_supports("avx512vnni");
    return vnni && (type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q5_0 || type == GGML_TYPE_Q4_0 || type == GGML_TYPE_IQ4_NL);
#else
    return false;
#endif
}
