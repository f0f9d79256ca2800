"""A container's health: hybrid-infer answers with its metrics, and frames flow from one of its cameras at least.

Exit code 0 is healthy. A stage or an engine that hangs need not be found here: hybrid-infer's own supervisor replaces
the process, which answers again or not. The proxies of the environment are for other hosts than this one.
"""

import re
import sys
import urllib.request

ADDRESS = "http://127.0.0.1:9464/metrics"  # as the image's CMD tells hybrid-infer
CAMERA = re.compile(r'^hybrid_edge_camera_up\{camera="(.*)"\} ([0-9.]+)$', re.MULTILINE)


def main() -> None:
    """Say in one line what is wrong, which ``docker inspect`` shows, and exit with 1."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(ADDRESS, timeout=5) as answer:
            flowing = {name: float(up) > 0 for name, up in CAMERA.findall(answer.read().decode())}
    except OSError as error:
        sys.exit(f"{ADDRESS}: expected hybrid-infer's metrics, found: {error}")
    if flowing and not any(flowing.values()):
        sys.exit(f"expected frames from a camera, found none from {', '.join(flowing)}")


if __name__ == "__main__":
    main()
