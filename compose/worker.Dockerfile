# One model, served over gRPC. Alone it is a recommender: docker run -p 50051:50051 -p 8000:8000 abfleet-worker
# From the top of the repository: docker build -t abfleet-worker -f compose/worker.Dockerfile .

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# What changes seldom comes first, so that an edit of the code leaves the layers of the dependencies as they are.
COPY compose/build.lock compose/worker.lock compose/
RUN python -m venv /build \
    && /build/bin/pip install --quiet --only-binary :all: --require-hashes --requirement compose/build.lock \
    && python -m venv --without-pip /app \
    && /build/bin/pip --python /app/bin/python install --quiet --only-binary :all: --no-compile \
       --require-hashes --requirement compose/worker.lock
COPY . .
# The compiled files name no time, so the same sources give the same files.
RUN /build/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /dist . ./protos \
    && /build/bin/pip --python /app/bin/python install --quiet --no-deps --no-index --no-compile /dist/*.whl \
    && python -m compileall -q --invalidation-mode unchecked-hash /app/lib \
    && cp compose/healthcheck.py /app/healthcheck.py \
    && cp -a models /registry && rm -r /registry/abfleet_models

FROM python:3.11-slim
# The models' own terms are in /models/NOTICE.
LABEL org.opencontainers.image.title="abfleet-worker" \
      org.opencontainers.image.description="A recommender: one ONNX model, served over gRPC" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-MovieLens"
RUN groupadd --system --gid 10001 abfleet \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent abfleet
COPY --from=build /app /app
COPY --from=build /registry /models
# The commit that it is built from, for --version, status and metrics: --build-arg ABFLEET_REVISION="$(git rev-parse HEAD)".
ARG ABFLEET_REVISION=""
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 \
    ABFLEET_REVISION=$ABFLEET_REVISION \
    ABFLEET_REGISTRY=/models \
    ABFLEET_VERSION=production \
    ABFLEET_LISTEN=0.0.0.0:50051 \
    ABFLEET_METRICS_HOST=0.0.0.0 \
    ABFLEET_METRICS_PORT=8000 \
    ABFLEET_DRAIN_DELAY=3 \
    ABFLEET_DRAIN_TIMEOUT=8
USER 10001:10001
WORKDIR /tmp
EXPOSE 50051 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-I", "-S", "/app/healthcheck.py"]
ENTRYPOINT ["python", "-m", "abfleet_worker"]
