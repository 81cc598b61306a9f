# Read by CMake when llama.cpp's project starts: its command-line tools' common library is not needed.
set(LLAMA_BUILD_COMMON OFF)
