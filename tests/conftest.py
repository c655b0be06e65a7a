"""What several rooms' tests share."""

import os

# One thread a test: pytest-xdist runs several at once, and small networks train slower on many threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
