"""Which data folder the working folder belongs to: the rule of `tulle.local`, without its models.

A test holds the two rules equal.
"""

import os
from pathlib import Path

PROJECT_FILE = "tulle.yaml"
DATA_FOLDER = ".tulle"


def home() -> Path:
    """Return the data folder of the mesh that the working folder belongs to."""
    return home_of(Path.cwd())


def home_of(start: Path) -> Path:
    """Return `$TULLE_HOME`, or `.tulle` beside the nearest project or data folder upwards."""
    if chosen := os.environ.get("TULLE_HOME"):
        return Path(chosen).absolute()
    folders = (start.absolute(), *start.absolute().parents)
    for folder in folders:
        if (folder / PROJECT_FILE).is_file() or (folder / DATA_FOLDER).is_dir():
            return folder / DATA_FOLDER
    return folders[0] / DATA_FOLDER
