"""Hosts one Tulle engine with given records and no control plane, as lean as the sidecar does.

usage: python -I -S tulle_host.py PACKAGES FOLDER

PACKAGES is the directory that holds the package `tulle`; FOLDER holds settings.json, the identity
(chain.pem, key.pem, roots.pem) and records.txt, which names a record and its file per line.
"""

import sys

WAIT_MS = 60_000


def main(packages: str, folder: str) -> None:
    """Start the engine and serve until the process is ended."""
    sys.path.append(packages)
    from tulle._engine import Engine  # noqa: PLC0415  the path above is where it is

    def read(name: str) -> bytes:
        with open(f"{folder}/{name}", "rb") as file:  # noqa: PTH123  pathlib is memory
            return file.read()

    engine = Engine(read("settings.json"))
    chain, key, roots = (read(f"{part}.pem").decode() for part in ("chain", "key", "roots"))
    engine.set_identity(chain, key, roots)
    for line in read("records.txt").decode().splitlines():
        name, file = line.split()
        engine.apply(name, read(file))
    engine.start()
    while True:
        engine.next_event(WAIT_MS)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
