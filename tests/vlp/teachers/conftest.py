from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "training")]  # tiny_run.py, and an objective that follows a teacher
