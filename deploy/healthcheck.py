"""Whether a part of the node answers: for container engines, whose images have no curl.

    healthcheck.py http://127.0.0.1:8882/health/ready     HTTP, in whatever process
    healthcheck.py grpc://127.0.0.1:8881                  the gRPC of runimpd
    healthcheck.py grpc://127.0.0.1:8881/websocket.Websocket    one service of it: this one needs no lnd

https:// and grpcs:// do not check the certificate: this machine asks itself, and never by a proxy that its environment names.
"""

import ssl
import sys
import urllib.request
from urllib.parse import urlsplit

SECONDS = 8
NO_PROXY = (("grpc.enable_http_proxy", 0),)


def http_is_well(url: str) -> bool:
    unverified = ssl._create_unverified_context()  # noqa: S323 (this machine asks itself)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unverified)
    )
    with opener.open(url, timeout=SECONDS) as response:
        return response.status == 200


def grpc_is_well(scheme: str, address: str, service: str) -> bool:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    if scheme == "grpcs":
        host, _, port = address.rpartition(":")
        certificate = ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=SECONDS)
        credentials = grpc.ssl_channel_credentials(certificate.encode())
        channel = grpc.secure_channel(address, credentials, NO_PROXY)
    else:
        channel = grpc.insecure_channel(address, NO_PROXY)
    with channel:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=SECONDS)
        return answer.status == health_pb2.HealthCheckResponse.SERVING


def main(url: str) -> int:
    parts = urlsplit(url)
    try:
        well = (
            grpc_is_well(parts.scheme, parts.netloc, parts.path.strip("/"))
            if parts.scheme.startswith("grpc")
            else http_is_well(url)
        )
    except Exception as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
