import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # ranks in other processes import what they run from here
