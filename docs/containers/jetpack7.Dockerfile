# Nobody has built or run this image yet: no Jetson was at hand.
# hybrid-edge on a Jetson with JetPack 7.2 (Ubuntu 24.04, Python 3.12, TensorRT 10.16, CUDA 13.2). On the device, in the
# root of a checkout:
#     docker build -f docs/containers/jetpack7.Dockerfile -t hybrid-edge:jetpack7 .
# JetPack 7 has no image of its own: it is Ubuntu with CUDA 13, and the driver's libraries come with NVIDIA's container
# toolkit. Pin the base's digest as well as its tag: docker buildx imagetools inspect …
FROM nvcr.io/nvidia/cuda:13.2.1-base-ubuntu24.04 AS build
# hadolint ignore=DL3008  # Ubuntu's archive keeps the newest alone: a version named here is soon gone
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# cuda-python of CUDA 13.2: a later one brings a CUDA runtime that JetPack 7.2's driver may refuse
RUN python3 -m venv /build \
    && /build/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && grep -v -e cuda -e tensorrt constraints.txt >/build/constraints.txt \
    && python3 -m venv --without-pip --system-site-packages /opt/hybrid-edge \
    && /build/bin/pip --python /opt/hybrid-edge/bin/python install --no-cache-dir -c /build/constraints.txt \
       "$(echo /wheels/*.whl)[jetson,web,mqtt,metrics]" 'cuda-python<13.3' opencv-python-headless \
    && find /opt/hybrid-edge -type d -name tests -prune -exec rm -rf {} +

FROM nvcr.io/nvidia/cuda:13.2.1-base-ubuntu24.04
LABEL org.opencontainers.image.title="hybrid-edge" \
      org.opencontainers.image.description="Runs Keras image classifiers with TensorRT on a Jetson with JetPack 7" \
      org.opencontainers.image.licenses="Apache-2.0"
# compat/ holds the driver's libraries for desktop GPUs, which would stand before the Jetson's. GStreamer reads CSI
# cameras, and RTSP through the hardware's decoder; its NVIDIA plug-ins come with the toolkit
# hadolint ignore=DL3008  # as above
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
       python3-libnvinfer=10.16.* libnvinfer10=10.16.* libnvinfer-plugin10=10.16.* libnvonnxparsers10=10.16.* \
       gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
    && rm -rf /var/lib/apt/lists/* /usr/local/cuda/compat \
    && install -d -o 10001 -g 10001 /var/cache/hybrid-edge
COPY docs/containers/healthy.py /opt/hybrid-edge/
COPY --from=build /opt/hybrid-edge /opt/hybrid-edge
ENV PATH=/opt/hybrid-edge/bin:$PATH HYBRID_EDGE_CACHE=/var/cache/hybrid-edge PYTHONUNBUFFERED=1
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all
VOLUME ["/var/cache/hybrid-edge"]
USER 10001:10001
WORKDIR /tmp
# the first start builds the engine, which takes minutes
HEALTHCHECK --interval=30s --timeout=10s --start-period=15m CMD ["python", "/opt/hybrid-edge/healthy.py"]
CMD ["hybrid-infer", "--config", "/etc/hybrid-edge/camera.toml", "--metrics", "127.0.0.1:9464"]
