"""Settings of every test's process, made before a training library is imported."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Everything that the tests need is made by them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
