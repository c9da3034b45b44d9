# The router, with the abfleet command; no model and no ONNX Runtime in it.
# From the top of the repository: docker build -t abfleet-router -f compose/router.Dockerfile .

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# What changes seldom comes first, so that an edit of the code leaves the layers of the dependencies as they are.
COPY compose/build.lock compose/router.lock compose/
RUN python -m venv /build \
    && /build/bin/pip install --quiet --only-binary :all: --require-hashes --requirement compose/build.lock \
    && python -m venv --without-pip /app \
    && /build/bin/pip --python /app/bin/python install --quiet --only-binary :all: --no-compile \
       --require-hashes --requirement compose/router.lock
COPY . .
# The compiled files name no time, so the same sources give the same files.
RUN /build/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /dist . ./protos \
    && /build/bin/pip --python /app/bin/python install --quiet --no-deps --no-index --no-compile /dist/*.whl \
    && python -m compileall -q --invalidation-mode unchecked-hash /app/lib \
    && cp compose/healthcheck.py /app/healthcheck.py

FROM python:3.11-slim
LABEL org.opencontainers.image.title="abfleet-router" \
      org.opencontainers.image.description="A/B-testing gRPC router for recommenders" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 abfleet \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent abfleet \
    && install --directory --owner=10001 --group=10001 /var/log/abfleet
COPY --from=build /app /app
COPY experiments/recommender.yaml /etc/abfleet/experiments/
# The commit that it is built from, for --version, status and metrics: --build-arg ABFLEET_REVISION="$(git rev-parse HEAD)".
ARG ABFLEET_REVISION=""
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 \
    ABFLEET_REVISION=$ABFLEET_REVISION \
    ABFLEET_EXPERIMENTS=/etc/abfleet/experiments/recommender.yaml \
    ABFLEET_LISTEN=0.0.0.0:50051 \
    ABFLEET_ADMIN_LISTEN=127.0.0.1:50052 \
    ABFLEET_METRICS_HOST=0.0.0.0 \
    ABFLEET_METRICS_PORT=8000 \
    ABFLEET_LOG_DIR=/var/log/abfleet \
    ABFLEET_DRAIN_DELAY=3 \
    ABFLEET_DRAIN_TIMEOUT=8
USER 10001:10001
WORKDIR /tmp
EXPOSE 50051 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-I", "-S", "/app/healthcheck.py"]
ENTRYPOINT ["python", "-m", "abfleet_router"]
