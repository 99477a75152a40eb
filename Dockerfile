# radit-ray on Ray, for CPUs or for GPUs, as the nodes of a cluster run it (deploy/) and by itself:
#
#   docker build --build-arg EXTRA=cpu -t radit-ray:0.1.0-ray2.60.0-cpu .
#   docker build --build-arg EXTRA=gpu -t radit-ray:0.1.0-ray2.60.0-gpu .
#   docker run --rm --shm-size=4g radit-ray:0.1.0-ray2.60.0-cpu radit demo --output /tmp/demo
#
# PyPI's torch brings its own CUDA libraries, so one base serves both; a GPU node needs NVIDIA's driver and container toolkit
# alone. For a small CPU image give an index of CPU wheels: --build-arg PIP_EXTRA_INDEX_URL=URL (pip reads it by itself).
ARG PYTHON_VERSION=3.11
FROM python:${PYTHON_VERSION}-slim-bookworm

# "cpu" or "gpu": faiss-cpu and faiss-gpu install the same module, so an image holds one of them, never both.
ARG EXTRA=cpu
# Inside pyproject.toml's range; all nodes and whoever submits have the same one.
ARG RAY_VERSION=2.60.0
# fsspec's packages for the URIs you use: s3fs, gcsfs, adlfs; several with spaces between.
ARG STORAGE_PACKAGES=s3fs
ARG PIP_EXTRA_INDEX_URL=

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# g++ and Python's ninja compile DeepSpeed's operator at its first start; KubeRay's probes call wget.
# hadolint ignore=DL3008
RUN if [[ "$EXTRA" != cpu && "$EXTRA" != gpu ]]; then echo "EXTRA=$EXTRA, expected cpu or gpu" >&2; exit 1; fi \
    && apt-get update \
    && apt-get install --yes --no-install-recommends g++ wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --gid users ray

# First what the package needs: a change of the code alone then reuses this layer of some gigabytes.
WORKDIR /opt/radit-ray
COPY pyproject.toml README.md LICENSE ./
COPY radit_ray/__init__.py radit_ray/
# hadolint ignore=DL3013,SC2086
RUN pip install --no-cache-dir ".[$EXTRA,plots]" "ray==$RAY_VERSION" $STORAGE_PACKAGES
COPY radit_ray radit_ray
COPY jobs jobs
RUN pip install --no-cache-dir --no-deps --force-reinstall .

# Not root, by number, so that Kubernetes can see it (runAsNonRoot). uid 1000 and gid 100 are those of Ray's own images.
USER 1000:100
WORKDIR /home/ray
# A request without the token is refused by every Ray process started here (docs/security.md). A mode and no secret: the token
# itself comes from a mounted file or a Kubernetes Secret, never from the image.
# hadolint ignore=DL3064
ENV RAY_AUTH_MODE=token
CMD ["radit", "--help"]
