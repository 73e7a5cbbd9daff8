"""`tulle init`: a first tulle.yaml that starts as it is."""

from pathlib import Path

from tulle.errors import AlreadyExists
from tulle.local.paths import FILE_NAME

STARTER = """\
# The apps of this project. Start them with: tulle up
apps:
  hello:
    # A line for the shell. It listens on $PORT, which the runner chooses.
    command: python3 -m http.server $PORT --bind 127.0.0.1
    replicas: 2            # ready when they listen; or ask them: readiness: {http: /healthz}

  caller:
    # Calls services by name through $HTTP_PROXY, which the runner sets.
    command: |
      while true; do
        python3 -c "from urllib.request import urlopen; print('hello:', urlopen('http://hello/').status)"
        sleep 1
      done
    service: null          # nobody calls it
    dependsOn: [hello]     # it starts once hello is ready; also at $TULLE_HELLO_URL

# Also: port, servicePort, protocol (http, http2, grpc, tcp, auto), labels, namespace, environment,
# workingDirectory, restart, stopTimeout; and at the top `mesh` and `resources` (files of routes
# and policies).
"""


def write_starter(directory: Path) -> Path:
    """Write the file into *directory* and return its path.

    Raises:
        AlreadyExists: there is one.
    """
    path = directory / FILE_NAME
    try:
        with path.open("x") as file:
            file.write(STARTER)
    except FileExistsError:
        raise AlreadyExists(f'"{path}" exists already; start it with: tulle up') from None
    return path
