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
set(ggml_cpu ${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp/ggml/src/ggml-cpu)
set(edits_fit TRUE)

macro(read_source name file)
  set(${name}_file ${ggml_cpu}/${file})
  set(${name} "")
  if(EXISTS ${${name}_file})
    file(READ ${${name}_file} ${name})
  endif()
endmacro()

macro(edit name from to)
  string(FIND "${${name}}" "${from}" found)
  if(found EQUAL -1)
    set(edits_fit FALSE)
  endif()
  string(REPLACE "${from}" "${to}" ${name} "${${name}}")
endmacro()

read_source(products llamafile/sgemm.cpp)
read_source(repack repack.cpp)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang" AND NOT products MATCHES llama_cpp_chosen)
  edit(products "#include \"simd-mappings.h\"\n" "#include \"simd-mappings.h\"\n\n#include <algorithm>\n#include <memory>\n\n#include \"llama_cpp_chosen.h\"\n")
  edit(products
    "        iq4nlt = _mm_loadu_si128((const __m128i *)kvalues_iq4nl);\n    }\n\n    void matmul(int64_t m, int64_t n) {\n        mnpack(0, m, 0, n);\n    }\n"
    "        iq4nlt = _mm_loadu_si128((const __m128i *)kvalues_iq4nl);\n    }\n\n#include \"llama_cpp_blocks_of_32.h\"\n")
  edit(products "    if (n < 2)\n        return false;\n#endif\n" "    if (n < 2 && !holdfast_chosen(Atype))\n        return false;\n#endif\n")
  edit(repack "static const ggml::cpu::tensor_traits * ggml_repack_get_optimal_repack_type(const struct ggml_tensor * cur) {\n"
    "extern \"C\" bool holdfast_chosen(int type);\n\nstatic const ggml::cpu::tensor_traits * ggml_repack_get_optimal_repack_type(const struct ggml_tensor * cur) {\n    if (cur->ne[2] == 1 && holdfast_chosen(cur->type))\n        return nullptr;\n")
  if(edits_fit)
    file(COPY ${CMAKE_CURRENT_LIST_DIR}/llama_cpp_chosen.h ${CMAKE_CURRENT_LIST_DIR}/llama_cpp_blocks_of_32.h DESTINATION ${ggml_cpu}/llamafile)
    foreach(name products repack)
      file(WRITE ${${name}_file} "${${name}}")
    endforeach()
    message(STATUS "Holdfast: matrix products by AVX-512 VNNI where the processor has it")
  else()
    message(WARNING "Holdfast: this is not the llama.cpp that deploy/llama_cpp_blocks_of_32.h was written for; it is built without it")
  endif()
endif()
