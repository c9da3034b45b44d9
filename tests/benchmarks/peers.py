"""Configurations of nginx, Envoy and HAProxy that do our router's job: a split by user, and a JSON line for each call.

Each hashes `x-user-id` over three pools at 70/20/10, uses one thread, keeps its connections to the workers and buffers
its log where it can. Knows how to write and start them, not how to measure them.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.files import GROUPS, WEIGHTS
from tests.benchmarks.processes import Child

_START_S = 20.0
_ENVOY_VARIABLE = "ABFLEET_ENVOY"


def find_nginx() -> str | None:
    return shutil.which("nginx")


def find_haproxy() -> str | None:
    return shutil.which("haproxy")


def find_envoy() -> str | None:
    """Looks in ABFLEET_ENVOY, PATH and beside this Python, in this order."""
    beside = Path(sys.executable).parent / "envoy"
    return os.environ.get(_ENVOY_VARIABLE) or shutil.which("envoy") or (str(beside) if beside.exists() else None)


def start_nginx(name: str, listen: int, workers: Sequence[int], directory: Path) -> Child:
    """Starts nginx with split_clients and grpc_pass; `workers` are the pools' ports in the order of the groups."""
    upstreams = "\n".join(
        f"  upstream {group} {{ server 127.0.0.1:{port}; keepalive 1024; keepalive_requests 100000000; }}"
        for group, port in zip(GROUPS, workers, strict=True)
    )
    config = f"""
daemon off; worker_processes 1; pid {directory}/{name}.pid; error_log stderr crit; worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  log_format decisions escape=json '{{"ts":"$time_iso8601","user_id":"$http_x_user_id","group":"$pool",'
    '"status":$status,"grpc_status":"$sent_trailer_grpc_status","latency_s":$request_time}}';
  access_log {directory}/{name}.log decisions buffer=64k flush=1s;
  client_body_temp_path {directory}/{name}-body; proxy_temp_path {directory}/{name}-proxy;
  fastcgi_temp_path {directory}/{name}-fastcgi; uwsgi_temp_path {directory}/{name}-uwsgi;
  scgi_temp_path {directory}/{name}-scgi;
  split_clients $http_x_user_id $pool {{ {WEIGHTS[0]}% {GROUPS[0]}; {WEIGHTS[1]}% {GROUPS[1]}; * {GROUPS[2]}; }}
{upstreams}
  server {{
    listen 127.0.0.1:{listen} http2; keepalive_requests 100000000; http2_max_concurrent_streams 8192;
    location / {{ grpc_pass grpc://$pool; grpc_socket_keepalive on; }}
  }}
}}
"""
    path = directory / f"{name}.conf"
    path.write_text(config)
    child = Child.start(
        name, [find_nginx() or "nginx", "-p", directory, "-c", path, "-e", "stderr"], directory=directory
    )
    child.wait_for_port(listen, timeout_s=_START_S)
    return child


def start_haproxy(name: str, listen: int, workers: Sequence[int], directory: Path) -> Child:
    """Starts HAProxy with a hash of the header over three backends; its JSON lines go to the child's output."""
    first, second = WEIGHTS[0], WEIGHTS[0] + WEIGHTS[1]
    backends = "\n".join(
        f"backend {group}\n  http-reuse always\n  server worker 127.0.0.1:{port} proto h2"
        for group, port in zip(GROUPS, workers, strict=True)
    )
    line = (
        '{"ts":"%Ts.%ms","user_id":"%[capture.req.hdr(0),json(utf8s)]","group":"%b","status":%ST,'
        '"latency_ms":%Ta,"termination":"%ts"}'
    )
    config = f"""
global
  nbthread 1
  maxconn 8192
  log stdout format raw local0
  tune.h2.max-concurrent-streams 8192
defaults
  mode http
  log global
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend entry
  bind 127.0.0.1:{listen} proto h2
  declare capture request len 64
  http-request capture req.hdr(x-user-id) id 0
  http-request set-var(txn.bucket) req.hdr(x-user-id),xxh32,mod(100)
  log-format {json.dumps(line)}
  use_backend {GROUPS[0]} if {{ var(txn.bucket) -m int lt {first} }}
  use_backend {GROUPS[1]} if {{ var(txn.bucket) -m int lt {second} }}
  default_backend {GROUPS[2]}
{backends}
"""
    path = directory / f"{name}.cfg"
    path.write_text(config)
    child = Child.start(name, [find_haproxy() or "haproxy", "-db", "-f", path], directory=directory)
    child.wait_for_port(listen, timeout_s=_START_S)
    return child


def start_envoy(name: str, listen: int, workers: Sequence[int], directory: Path) -> Child:
    """Starts Envoy with weighted clusters chosen by a hash of the header (`use_hash_policy`)."""
    types = "type.googleapis.com/envoy.extensions"
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{types}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    # The default breakers stop at 1,024 calls, which would be measured as errors.
    limits = {"thresholds": [{"max_connections": 8192, "max_pending_requests": 65536, "max_requests": 65536}]}
    clusters = [
        {
            "name": group,
            "type": "STATIC",
            "typed_extension_protocol_options": http2,
            "circuit_breakers": limits,
            "load_assignment": {
                "cluster_name": group,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
            },
        }
        for group, port in zip(GROUPS, workers, strict=True)
    ]
    access_log = {
        "@type": f"{types}.access_loggers.file.v3.FileAccessLog",
        "path": f"{directory}/{name}.log",
        "log_format": {
            "json_format": {
                "ts": "%START_TIME%",
                "user_id": "%REQ(X-USER-ID)%",
                "group": "%UPSTREAM_CLUSTER%",
                "grpc_status": "%GRPC_STATUS%",
                "latency_ms": "%DURATION%",
            }
        },
    }
    weighted = [{"name": group, "weight": weight} for group, weight in zip(GROUPS, WEIGHTS, strict=True)]
    route = {
        "timeout": "0s",
        "hash_policy": [{"header": {"header_name": "x-user-id"}}],
        "weighted_clusters": {"use_hash_policy": True, "clusters": weighted},
    }
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "entry",
        "access_log": [{"name": "decisions", "typed_config": access_log}],
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "address": _address(listen),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    path = directory / f"{name}.json"
    path.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}))
    argv = [find_envoy() or "envoy", "-c", path, "--concurrency", "1", "-l", "error", "--disable-hot-restart"]
    argv += ["--file-flush-interval-msec", "1000"]
    child = Child.start(name, argv, directory=directory)
    child.wait_for_port(listen, timeout_s=_START_S)
    return child


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
