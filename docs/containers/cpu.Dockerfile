# hybrid-edge on any CPU, x86-64 or 64-bit ARM. In the root of a checkout:
#     docker build -f docs/containers/cpu.Dockerfile -t hybrid-edge:cpu .
# `make container-cpu` runs these steps without docker, in a root file system of its own; docker itself has built it
# nowhere yet. Pin the base's digest as well as its tag: docker buildx imagetools inspect debian:13.8-slim
FROM debian:13.8-slim AS build
# hadolint ignore=DL3008  # Debian's archive keeps the newest alone: a version named here is soon gone
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# the headless OpenCV, in place of that of [cpu]: there are no windows here, and it needs neither X11 nor OpenGL
RUN python3 -m venv /build \
    && /build/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python3 -m venv --without-pip /opt/hybrid-edge \
    && /build/bin/pip --python /opt/hybrid-edge/bin/python install --no-cache-dir -c constraints.txt \
       "$(echo /wheels/*.whl)[web,mqtt,metrics]" onnxruntime opencv-python-headless \
    && find /opt/hybrid-edge -type d -name tests -prune -exec rm -rf {} +

FROM debian:13.8-slim
LABEL org.opencontainers.image.title="hybrid-edge" \
      org.opencontainers.image.description="Runs Keras image classifiers as ONNX on a CPU" \
      org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008  # as above
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 /var/cache/hybrid-edge
COPY docs/containers/healthy.py /opt/hybrid-edge/
COPY --from=build /opt/hybrid-edge /opt/hybrid-edge
ENV PATH=/opt/hybrid-edge/bin:$PATH HYBRID_EDGE_CACHE=/var/cache/hybrid-edge PYTHONUNBUFFERED=1
VOLUME ["/var/cache/hybrid-edge"]
USER 10001:10001
WORKDIR /tmp
HEALTHCHECK --interval=30s --timeout=10s --start-period=1m CMD ["python", "/opt/hybrid-edge/healthy.py"]
CMD ["hybrid-infer", "--config", "/etc/hybrid-edge/camera.toml", "--metrics", "127.0.0.1:9464"]
