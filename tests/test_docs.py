"""The documentation: complete, current, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fourstage.cli.app import COMMANDS
from fourstage.config.schema import Config, check_override
from fourstage.data.dataset import _KNOWN
from tests.settings import composed

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
