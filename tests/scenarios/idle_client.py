"""Opens connections that say nothing, until its standard input is closed. Arguments: host port held refused."""

import resource
import socket
import sys


def main(host: str, port: int, held: int, refused: int) -> None:
    """Hold ``held`` connections, then see ``refused`` more be turned away with 503."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections = [socket.create_connection((host, port), timeout=30) for _ in range(held)]
    turned_away = 0
    for _ in range(refused):
        with socket.create_connection((host, port), timeout=30) as extra:
            turned_away += extra.recv(4096).startswith(b"HTTP/1.1 503 ")
    print(len(connections), "held", turned_away, "refused", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
