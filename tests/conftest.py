"""One thread for each test process, and no test fails because its machine is slow at the moment."""

import os

from hypothesis import HealthCheck, settings

# Two processes of one thread side by side are faster than one with two threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
