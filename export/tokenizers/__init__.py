"""Hugging Face tokenizers in llama.cpp's terms."""
