# The service as an image. Its steps are deploy/install.sh, which runs outside Docker as well.
#
#   docker build -t rapid-diffusion .                                      a GPU node
#   docker build -t rapid-diffusion:cpu --build-arg TARGET=cpu \
#     --build-arg TORCH_INDEX_URL=<an index with CPU builds of torch> .    without a GPU
#   a private index with a password: --secret id=pip,src=pip.conf (it stays out of the layers)
#
#   docker run --gpus all -p 127.0.0.1:8000:8000 -e RAPID_DIFFUSION_ALLOW_UNAUTHENTICATED=true \
#     -e RAPID_DIFFUSION_CONTENT_PRODUCER=<your code> -v ./models:/models:ro rapid-diffusion

ARG TARGET=cuda
ARG CUDA_IMAGE=nvidia/cuda:12.8.1-base-ubuntu24.04
ARG CPU_IMAGE=python:3.12-slim-bookworm

FROM ${CPU_IMAGE} AS base-cpu

FROM ${CUDA_IMAGE} AS base-cuda
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM base-${TARGET} AS build
ARG TARGET
# Empty: what pip would use by itself.
ARG PIP_INDEX_URL=
ARG TORCH_INDEX_URL=
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY deploy/install.sh deploy/check_install.py deploy/
COPY knowledge knowledge
COPY rapid_diffusion rapid_diffusion
COPY server server
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    deploy/install.sh /opt/rapid-diffusion "$TARGET"

FROM base-${TARGET} AS service
RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin rapid \
    && install --directory --owner rapid --group rapid /models /artifacts /state
COPY --from=build /opt/rapid-diffusion /opt/rapid-diffusion
COPY LICENSE NOTICE /opt/rapid-diffusion/
ENV PATH=/opt/rapid-diffusion/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAPID_DIFFUSION_HOST=0.0.0.0 \
    RAPID_DIFFUSION_PORT=8000 \
    TORCHINDUCTOR_CACHE_DIR=/artifacts/inductor
# Models of your own (RAPID_DIFFUSION_MODEL=/models/<folder>), and what is compiled from them.
VOLUME ["/models", "/artifacts"]
USER 10001:10001
WORKDIR /home/rapid
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as request; request.urlopen('http://127.0.0.1:' + os.environ['RAPID_DIFFUSION_PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["rapid-diffusion"]
CMD ["serve"]
