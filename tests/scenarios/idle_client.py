"""Opens connections that say nothing, until its standard input is closed. Arguments: host port count."""

import resource
import socket
import sys


def main(host: str, port: int, count: int) -> None:
    """Hold ``count`` connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections = [socket.create_connection((host, port), timeout=30) for _ in range(count)]
    print(len(connections), "held", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))
