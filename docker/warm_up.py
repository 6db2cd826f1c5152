"""Imports what the parts of the service import, so that an image has it compiled and nothing beside it.

A container's root file system is read-only: what is not compiled in the image is compiled anew at each start.

``python warm_up.py MODULE…`` runs in the rooms' folder; a module that is not there is an error.
"""

from __future__ import annotations

import importlib
import sys

for name in sys.argv[1:]:
    importlib.import_module(name)
