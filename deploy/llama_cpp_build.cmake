# Read by CMake when llama.cpp's project starts (CMAKE_PROJECT_llama_cpp_INCLUDE).
# The command-line tools' common library is not needed: two thirds of the build time.
set(LLAMA_BUILD_COMMON OFF)

# ggml's AMX kernels as gcc 12 compiles them end in a segmentation fault (in ldtilecfg) on the first
# prompt of two tokens or more; without these flags -march=native turns them on where the CPU has AMX.
include(CheckCCompilerFlag)
foreach(feature amx-tile amx-int8 amx-bf16)
  check_c_compiler_flag(-mno-${feature} HOLDFAST_KNOWS_${feature})
  if(HOLDFAST_KNOWS_${feature})
    add_compile_options(-mno-${feature})
  endif()
endforeach()

# Products of Q8_0, Q5_0, Q4_0 and IQ4_NL with AVX-512 VNNI: about half the time of llama.cpp's own for prompts and for
# replies to several at once (benchmarks/README.md). Another llama.cpp, whose source has other lines, is built as it is.
set(llamafile ${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp/ggml/src/ggml-cpu/llamafile)
set(kernel ${CMAKE_CURRENT_LIST_DIR}/llama_cpp_blocks_of_32.h)
if(EXISTS ${llamafile}/sgemm.cpp AND EXISTS ${kernel} AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  file(READ ${llamafile}/sgemm.cpp source)
  string(REPLACE "#include \"sgemm.h\"" "#include \"sgemm.h\"\n#include <algorithm>\n#include <memory>" patched "${source}")
  string(REPLACE
    "        iq4nlt = _mm_loadu_si128((const __m128i *)kvalues_iq4nl);\n    }\n\n    void matmul(int64_t m, int64_t n) {\n        mnpack(0, m, 0, n);\n    }\n"
    "        iq4nlt = _mm_loadu_si128((const __m128i *)kvalues_iq4nl);\n    }\n\n#include \"llama_cpp_blocks_of_32.h\"\n"
    patched "${patched}")
  string(REPLACE "    if (n < 2)\n        return false;\n#endif\n"
    "#if defined(__AVX2__) && defined(__F16C__)\n    const bool one = Btype == GGML_TYPE_Q8_0 && tinyBLAS_Q0_AVX<block_q8_0, block_q8_0, float>::has_vnni();\n#else\n    const bool one = false;\n#endif\n    if (n < 2 && !one)\n        return false;\n#endif\n"
    patched "${patched}")
  if(patched MATCHES "llama_cpp_blocks_of_32.h" AND patched MATCHES "has_vnni" AND patched MATCHES "#include <memory>")
    file(COPY ${kernel} DESTINATION ${llamafile})
    file(WRITE ${llamafile}/sgemm.cpp "${patched}")
    message(STATUS "Holdfast: blocks of 32 by AVX-512 VNNI where the processor has it")
  elseif(NOT source MATCHES "llama_cpp_blocks_of_32.h")
    message(WARNING "Holdfast: this is not the llama.cpp that llama_cpp_blocks_of_32.h was written for; built without it")
  endif()
endif()
