# Two images: `--target toolkit` compresses, `--target runtime` serves a bundle without torch.
#   docker build --target runtime -t holdfast-runtime .
#   docker run --rm -p 8080:8080 -v "$PWD/bundle:/bundle:ro" holdfast-runtime
FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++=4:12.2.0-3 gcc=4:12.2.0-3 make=4.3-4.1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE Makefile ./
COPY deploy/llama_cpp_* deploy/
ENV CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF -DCMAKE_PROJECT_llama_cpp_INCLUDE=/src/deploy/llama_cpp_build.cmake"
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels -c constraints.txt llama-cpp-python
COPY runtime runtime
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels ./runtime

FROM python:3.11-slim-bookworm AS runtime
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1=12.2.0-14+deb12u1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 holdfast
COPY --from=build /wheels /wheels
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir -c /tmp/constraints.txt --find-links /wheels "holdfast-runtime[gguf,serve]"
USER holdfast
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["holdfast"]
CMD ["serve", "/bundle", "--host", "0.0.0.0", "--port", "8080"]

FROM build AS toolkit
COPY . .
RUN pip install --no-cache-dir -c constraints.txt torch \
    && pip install --no-cache-dir -c constraints.txt --find-links /wheels ".[all]" \
    && useradd --create-home --uid 10001 holdfast
USER holdfast
WORKDIR /home/holdfast
ENTRYPOINT ["compress"]
CMD ["--help"]
