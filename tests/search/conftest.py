import sys
from pathlib import Path

# Worker processes import the evaluation functions of search_fakes by name, and inherit this path.
sys.path.insert(0, str(Path(__file__).parent))
