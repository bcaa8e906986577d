# Prefect, this package and its example flows, for a work pool that runs containers (prefect.kubernetes.yaml):
#
#   docker build -t registry.example.com/n1n-prefect:1 . && docker push registry.example.com/n1n-prefect:1
#
# No secret is built in or handed over as a variable: runs load blocks from the Prefect server.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
RUN python -m venv /opt/venv
WORKDIR /src
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY n1n_prefect n1n_prefect
COPY flows flows
# aws: S3Bucket as result storage. redis: locks and daily ceilings that several pods share.
RUN /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check ".[aws,redis,parquet]"

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --create-home n1n
COPY --from=build /opt/venv /opt/venv
COPY flows /opt/n1n/flows
# Arenas: glibc makes up to eight a core, each of which keeps what replies of many megabytes took.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2 \
    PREFECT_LOGGING_EXTRA_LOGGERS=n1n_prefect
WORKDIR /opt/n1n
USER 10001
# What the pod of a run does; the work pool gives the flow run's id.
CMD ["prefect", "flow-run", "execute"]
