"""``export.gguf``: llama.cpp's format."""
