# Nobody has built or run this image yet: no Jetson was at hand.
# hybrid-edge on a Jetson with JetPack 6.1 or 6.2 (Python 3.10, TensorRT 10.3, CUDA 12.6). On the device, in the root of
# a checkout:
#     docker build -f docs/containers/jetpack6.Dockerfile -t hybrid-edge:jetpack6 .
# r36.4 is both JetPacks' Jetson Linux. Pin its digest as well as its tag: docker buildx imagetools inspect …
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0 AS build
# hadolint ignore=DL3008  # Ubuntu's archive keeps the newest alone: a version named here is soon gone
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# the versions of constraints-oldest.txt are those that `make test-oldest` runs on Python 3.10. pip's OpenCV has FFmpeg,
# which Ubuntu's python3-opencv has too, and none of its 400 MB of other packages
RUN python3 -m venv /build \
    && /build/bin/pip install --no-cache-dir 'pip>=23' \
    && /build/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python3 -m venv --without-pip --system-site-packages /opt/hybrid-edge \
    && /build/bin/pip --python /opt/hybrid-edge/bin/python install --no-cache-dir -c constraints-oldest.txt \
       "$(echo /wheels/*.whl)[jetson,web,mqtt,metrics]" opencv-python-headless==4.8.1.78 \
    && find /opt/hybrid-edge -type d -name tests -prune -exec rm -rf {} +

FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
LABEL org.opencontainers.image.title="hybrid-edge" \
      org.opencontainers.image.description="Runs Keras image classifiers with TensorRT on a Jetson with JetPack 6" \
      org.opencontainers.image.licenses="Apache-2.0"
# GStreamer reads CSI cameras, and RTSP through the hardware's decoder; its NVIDIA plug-ins come with the runtime
# hadolint ignore=DL3008  # as above
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-libnvinfer \
       gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
    && rm -rf /var/lib/apt/lists/* \
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
