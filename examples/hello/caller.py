# ruff: noqa: INP001  # a program, not a package
"""Calls the service hello by its name, through $HTTP_PROXY, which urllib honours by itself."""

import sys
import time
import urllib.request

while True:
    with urllib.request.urlopen("http://hello/", timeout=5) as response:
        sys.stdout.write(f"hello answered {response.status}\n")
        sys.stdout.flush()
    time.sleep(1)
