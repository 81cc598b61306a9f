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
