# Two images from one file: `--target operator` (no torch) and `--target trainer` (no kopf).
# Dependencies are installed where they are shipped, in a layer of their own, and code is copied on top:
# a change of code moves kilobytes, and nobody copies gigabytes from stage to stage.
ARG BASE_IMAGE=docker.io/library/python:3.12-slim
ARG UV_VERSION=0.13.9

FROM ${BASE_IMAGE} AS base
# 1000 and group 0: works as a fixed user and, where a platform picks the user, through the group.
RUN useradd --uid 1000 --gid 0 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin troika
# Bytecode is compiled when packages are installed: the root file system is read-only at run time.
ENV PATH=/opt/troika/bin:$PATH PYTHONPATH=/opt/troika/code PYTHONUNBUFFERED=1 HOME=/tmp \
    UV_PYTHON_DOWNLOADS=never UV_PYTHON_PREFERENCE=only-system UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=/opt/troika UV_CACHE_DIR=/var/cache/uv

FROM base AS uv
ARG UV_VERSION
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==${UV_VERSION}
ENV UV=/opt/uv/bin/uv
WORKDIR /src
COPY pyproject.toml uv.lock ./
COPY crds crds

FROM uv AS operator-code
COPY trainer/pyproject.toml trainer/
COPY operator operator
RUN --mount=type=cache,target=/var/cache/uv \
    $UV build --wheel --package troika-api --out-dir /wheels \
    && $UV build --wheel --package troika-operator --out-dir /wheels \
    && $UV pip install --python python3 --no-deps --target /code /wheels/*.whl

FROM uv AS trainer-code
COPY operator/pyproject.toml operator/
COPY trainer trainer
RUN --mount=type=cache,target=/var/cache/uv \
    $UV build --wheel --package troika-api --out-dir /wheels \
    && $UV build --wheel --package troika-trainer --out-dir /wheels \
    && $UV pip install --python python3 --no-deps --target /code /wheels/*.whl

FROM base AS operator
ARG UV_VERSION
COPY pyproject.toml uv.lock /src/
COPY crds/pyproject.toml /src/crds/
COPY operator/pyproject.toml /src/operator/
COPY trainer/pyproject.toml /src/trainer/
RUN --mount=type=cache,target=/var/cache/uv \
    python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==${UV_VERSION} \
    && cd /src && /opt/uv/bin/uv sync --frozen --no-dev --no-install-workspace --package troika-operator \
    && rm -rf /opt/uv
COPY --from=operator-code /code /opt/troika/code
USER 1000
ENTRYPOINT ["python", "-m", "troika_operator"]

FROM base AS trainer
ARG UV_VERSION
# torch.compile and Triton call a C compiler with Python's headers. Where python3 is the
# distribution's own, they are a package; images such as python:3.12-slim bring them along.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
       $([ "$(command -v python3)" = /usr/bin/python3 ] && echo python3-dev) \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml uv.lock /src/
COPY crds/pyproject.toml /src/crds/
COPY operator/pyproject.toml /src/operator/
COPY trainer/pyproject.toml /src/trainer/
RUN --mount=type=cache,target=/var/cache/uv \
    python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==${UV_VERSION} \
    && cd /src && /opt/uv/bin/uv sync --frozen --no-dev --no-install-workspace --package troika-trainer \
    && rm -rf /opt/uv
COPY --from=trainer-code /code /opt/troika/code
ENV HF_HUB_DISABLE_TELEMETRY=1
USER 1000
ENTRYPOINT ["python", "-m", "troika_trainer.entry"]
