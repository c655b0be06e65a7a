import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for onnx_files, which pytest's importlib mode does not find by itself
