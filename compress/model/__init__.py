"""A Hugging Face folder seen block by block."""
