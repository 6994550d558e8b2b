"""The version of fourstage, and where its package lies: the one place for both."""

from pathlib import Path

__version__ = "0.2.0"
PACKAGE = Path(__file__).parent
