"""What several rooms' tests share."""

import os
import signal

# One thread a test: pytest-xdist runs several at once, and small networks train slower on many threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what it runs in the background with SIGINT ignored, and children inherit that; the tests of Ctrl-C send them one.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
