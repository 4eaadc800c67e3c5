# Two images from one file: `--target operator` (no torch) and `--target trainer` (no kopf).
# Dependencies and code are layers of their own, so that a change of code moves kilobytes.
ARG BASE_IMAGE=docker.io/library/python:3.12-slim

FROM ${BASE_IMAGE} AS base
# 1000 and group 0: works as a fixed user and, where a platform picks the user, through the group.
RUN useradd --uid 1000 --gid 0 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin troika
ENV PATH=/opt/troika/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp

FROM base AS uv
ARG UV_VERSION=0.13.9
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==${UV_VERSION}
# Bytecode is compiled now: the root file system is read-only when the image runs.
ENV UV=/opt/uv/bin/uv UV_PYTHON_DOWNLOADS=never UV_PYTHON_PREFERENCE=only-system \
    UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=/opt/troika \
    UV_CACHE_DIR=/var/cache/uv
WORKDIR /src
COPY pyproject.toml uv.lock ./
COPY crds/pyproject.toml crds/
COPY operator/pyproject.toml operator/
COPY trainer/pyproject.toml trainer/

FROM uv AS operator-dependencies
RUN --mount=type=cache,target=/var/cache/uv \
    $UV sync --frozen --no-dev --no-install-workspace --package troika-operator

FROM uv AS trainer-dependencies
RUN --mount=type=cache,target=/var/cache/uv \
    $UV sync --frozen --no-dev --no-install-workspace --package troika-trainer

FROM operator-dependencies AS operator-code
COPY crds crds
COPY operator operator
RUN --mount=type=cache,target=/var/cache/uv \
    $UV build --wheel --package troika-api --out-dir /wheels \
    && $UV build --wheel --package troika-operator --out-dir /wheels \
    && $UV pip install --python /opt/troika --no-deps --target /code /wheels/*.whl

FROM trainer-dependencies AS trainer-code
COPY crds crds
COPY trainer trainer
RUN --mount=type=cache,target=/var/cache/uv \
    $UV build --wheel --package troika-api --out-dir /wheels \
    && $UV build --wheel --package troika-trainer --out-dir /wheels \
    && $UV pip install --python /opt/troika --no-deps --target /code /wheels/*.whl

FROM base AS operator
COPY --from=operator-dependencies /opt/troika /opt/troika
COPY --from=operator-code /code /opt/troika/code
ENV PYTHONPATH=/opt/troika/code
USER 1000
ENTRYPOINT ["python", "-m", "troika_operator"]

FROM base AS trainer
# torch.compile and Triton call a C compiler with Python's headers. Where python3 is the
# distribution's own, they are a package; images such as python:3.12-slim bring them along.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
       $([ "$(command -v python3)" = /usr/bin/python3 ] && echo python3-dev) \
    && rm -rf /var/lib/apt/lists/*
COPY --from=trainer-dependencies /opt/troika /opt/troika
COPY --from=trainer-code /code /opt/troika/code
ENV PYTHONPATH=/opt/troika/code HF_HUB_DISABLE_TELEMETRY=1
USER 1000
ENTRYPOINT ["python", "-m", "troika_trainer.launch"]
