from __future__ import annotations

from tests.experiments import start_training_library

start_training_library()
