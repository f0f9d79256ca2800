# Nobody has built or run this image yet: no machine with docker and an NVIDIA GPU was at hand.
# hybrid-edge on x86-64 with an NVIDIA GPU. In the root of a checkout:
#     docker build -f docs/containers/gpu.Dockerfile -t hybrid-edge:gpu .
# ENGINE is an extra of pyproject.toml: tensorrt, or rtx for a desktop's RTX card; with a driver below 580 tensorrt-cu12
# or rtx-cu12. pip brings CUDA and TensorRT, NVIDIA's container toolkit the driver: so the base is the CPU image's. With
# rtx the steps have run without docker, and its library is found (654 MB); what it does on a GPU is not known.
# Pin the base's digest as well as its tag: docker buildx imagetools inspect debian:13.8-slim
FROM debian:13.8-slim AS build
ARG ENGINE=tensorrt
# hadolint ignore=DL3008  # Debian's archive keeps the newest alone: a version named here is soon gone
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# constraints.txt pins CUDA 13's TensorRT-RTX, and ENGINE may be another
RUN python3 -m venv /build \
    && /build/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && grep -v -e cuda -e tensorrt constraints.txt >/build/constraints.txt \
    && python3 -m venv --without-pip /opt/hybrid-edge \
    && /build/bin/pip --python /opt/hybrid-edge/bin/python install --no-cache-dir -c /build/constraints.txt \
       "$(echo /wheels/*.whl)[$ENGINE,web,mqtt,metrics]" opencv-python-headless \
    && find /opt/hybrid-edge -type d -name tests -prune -exec rm -rf {} +

FROM debian:13.8-slim
LABEL org.opencontainers.image.title="hybrid-edge" \
      org.opencontainers.image.description="Runs Keras image classifiers with TensorRT on an NVIDIA GPU" \
      org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008  # as above
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 /var/cache/hybrid-edge
COPY docs/containers/healthy.py /opt/hybrid-edge/
COPY --from=build /opt/hybrid-edge /opt/hybrid-edge
ENV PATH=/opt/hybrid-edge/bin:$PATH HYBRID_EDGE_CACHE=/var/cache/hybrid-edge PYTHONUNBUFFERED=1
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME ["/var/cache/hybrid-edge"]
USER 10001:10001
WORKDIR /tmp
# the first start builds the engine, which takes minutes
HEALTHCHECK --interval=30s --timeout=10s --start-period=15m CMD ["python", "/opt/hybrid-edge/healthy.py"]
CMD ["hybrid-infer", "--config", "/etc/hybrid-edge/camera.toml", "--metrics", "127.0.0.1:9464"]
