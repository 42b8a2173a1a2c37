"""One thread for each test process: two of them side by side are faster than one with two threads."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
