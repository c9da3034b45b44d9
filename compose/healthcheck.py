"""Asks the server in this container whether it serves: exit code 0 if so. Knows the health protocol and one address.

The address is ABFLEET_LISTEN with the loopback in the place of 0.0.0.0.
"""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 2.0


def main() -> int:
    """1 if it does not serve, or does not answer."""
    address = os.environ["ABFLEET_LISTEN"].replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    try:
        with grpc.insecure_channel(address) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)
    except grpc.RpcError as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main())
