# One target per service:  docker build --target gateway .     (docker-compose.yml names them all)
# Every image runs as a user without rights and needs nothing writable but /tmp. An image holds its service,
# services/common and the packages of that service's extra in pyproject.toml; only the workers hold torch.
# Models are mounted at /model. Where pip should look for a CPU build of torch: --build-arg PIP_EXTRA_INDEX_URL=...

ARG PYTHON_IMAGE=python:3.11-slim
ARG CUDA_IMAGE=nvidia/cuda:12.9.1-base-ubuntu24.04

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 SHOAL_MODEL_DIR=/model \
    SHOAL_HEALTH_HOST=0.0.0.0 SHOAL_HEALTH_PORT=9100
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin shoal
WORKDIR /app
COPY services/__init__.py services/__init__.py
COPY services/common services/common

# Packages are installed into a virtual environment without pip, which the images then copy as it is.
FROM ${PYTHON_IMAGE} AS packages
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv
WORKDIR /build
COPY pyproject.toml constraints.txt ./
COPY deploy/requirements.py deploy/

FROM packages AS gateway-packages
RUN python deploy/requirements.py gateway > wanted.txt \
 && python -m pip --python /opt/venv/bin/python install --quiet -c constraints.txt -r wanted.txt

FROM packages AS router-packages
RUN python deploy/requirements.py router > wanted.txt \
 && python -m pip --python /opt/venv/bin/python install --quiet -c constraints.txt -r wanted.txt

FROM packages AS detokenizer-packages
RUN python deploy/requirements.py detokenizer > wanted.txt \
 && python -m pip --python /opt/venv/bin/python install --quiet -c constraints.txt -r wanted.txt

FROM packages AS kvstore-packages
RUN python deploy/requirements.py kvstore > wanted.txt \
 && python -m pip --python /opt/venv/bin/python install --quiet -c constraints.txt -r wanted.txt

# torch first and alone, so that later installs find it there. On a CPU the kernels' PyTorch references run: no triton.
FROM packages AS worker-packages
RUN grep -v '^triton==' constraints.txt > pins.txt \
 && python -m pip --python /opt/venv/bin/python install --quiet -c pins.txt "$(grep '^torch==' constraints.txt)"
RUN python deploy/requirements.py worker | grep -v '^triton' > wanted.txt \
 && python -m pip --python /opt/venv/bin/python install --quiet -c pins.txt -r wanted.txt

FROM base AS gateway
COPY --from=gateway-packages /opt/venv /opt/venv
COPY services/gateway services/gateway
# The gateway answers /health and /ready where it serves clients.
ENV SHOAL_HOST=0.0.0.0 SHOAL_PORT=8000 SHOAL_HEALTH_PORT=8000
EXPOSE 8000
USER shoal
ENTRYPOINT ["python", "-m", "services.gateway"]

FROM base AS router
COPY --from=router-packages /opt/venv /opt/venv
COPY services/router services/router
USER shoal
ENTRYPOINT ["python", "-m", "services.router"]

FROM base AS detokenizer
COPY --from=detokenizer-packages /opt/venv /opt/venv
COPY services/detokenizer services/detokenizer
USER shoal
ENTRYPOINT ["python", "-m", "services.detokenizer"]

FROM base AS kvstore
COPY --from=kvstore-packages /opt/venv /opt/venv
COPY services/kvstore services/kvstore
USER shoal
ENTRYPOINT ["python", "-m", "services.kvstore"]

FROM base AS worker-cpu
COPY --from=worker-packages /opt/venv /opt/venv
COPY kernels kernels
COPY services/worker services/worker
ENV SHOAL_DEVICE=cpu
USER shoal
ENTRYPOINT ["python", "-m", "services.worker"]

# The GPU worker stands on CUDA's own image. Triton compiles small launchers on first use: hence the compiler, and
# a cache directory that should be a volume.
FROM ${CUDA_IMAGE} AS worker-gpu
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      python3 python3-dev python3-venv python3-pip gcc libc6-dev ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin shoal \
 && python3 -m venv /opt/venv && mkdir /cache && chown shoal /cache
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 SHOAL_MODEL_DIR=/model SHOAL_DEVICE=cuda \
    SHOAL_HEALTH_HOST=0.0.0.0 SHOAL_HEALTH_PORT=9100 TRITON_CACHE_DIR=/cache/triton PIP_NO_CACHE_DIR=1
WORKDIR /app
COPY pyproject.toml constraints.txt /build/
COPY deploy/requirements.py /build/deploy/
RUN grep -v '^triton==' /build/constraints.txt > /build/pins.txt \
 && pip install --quiet -c /build/pins.txt "$(grep '^torch==' /build/constraints.txt)" \
 && python /build/deploy/requirements.py worker > /build/wanted.txt \
 && pip install --quiet -c /build/pins.txt -r /build/wanted.txt
COPY services/__init__.py services/__init__.py
COPY services/common services/common
COPY kernels kernels
COPY services/worker services/worker
USER shoal
ENTRYPOINT ["python", "-m", "services.worker"]
