# The dashboard, with the analysis; no model and no ONNX Runtime in it.
# From the top of the repository: docker build -t abfleet-dashboard -f compose/dashboard.Dockerfile .

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# What changes seldom comes first, so that an edit of the code leaves the layers of the dependencies as they are. A sixth
# of the image would be tests of the libraries.
COPY compose/build.lock compose/dashboard.lock compose/
RUN python -m venv /build \
    && /build/bin/pip install --quiet --only-binary :all: --require-hashes --requirement compose/build.lock \
    && python -m venv --without-pip /app \
    && /build/bin/pip --python /app/bin/python install --quiet --only-binary :all: --no-compile \
       --require-hashes --requirement compose/dashboard.lock \
    && find /app/lib -type d -name tests -prune -exec rm -r {} +
COPY . .
# The compiled files name no time, so the same sources give the same files.
RUN /build/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /dist . ./protos \
    && /build/bin/pip --python /app/bin/python install --quiet --no-deps --no-index --no-compile /dist/*.whl \
    && python -m compileall -q --invalidation-mode unchecked-hash /app/lib

FROM python:3.11-slim
LABEL org.opencontainers.image.title="abfleet-dashboard" \
      org.opencontainers.image.description="What the log says of each experiment, as pages in a browser" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 abfleet \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent abfleet \
    && install --directory --owner=10001 --group=10001 /var/log/abfleet
COPY --from=build /app /app
COPY experiments/recommender.yaml /etc/abfleet/experiments/
# Who may open it is set where it is run: ABFLEET_TOKENS, or ABFLEET_OPEN_DASHBOARD where the port is published on loopback.
# The commit that it is built from, for --version, status and metrics: --build-arg ABFLEET_REVISION="$(git rev-parse HEAD)".
ARG ABFLEET_REVISION=""
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 \
    ABFLEET_REVISION=$ABFLEET_REVISION \
    ABFLEET_EXPERIMENTS=/etc/abfleet/experiments/recommender.yaml \
    ABFLEET_LISTEN=0.0.0.0:8080 \
    ABFLEET_LOGS=/var/log/abfleet \
    ABFLEET_REGISTRY=/models \
    ABFLEET_ROUTER_ADMIN=off
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-S", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "abfleet_dashboard"]
