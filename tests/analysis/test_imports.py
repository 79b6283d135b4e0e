from __future__ import annotations

import subprocess
import sys

BLOCKED_IMPORT = """
import importlib.abc, pkgutil, sys

HEAVY = {"tensorflow", "keras", "keras_hub", "tokenizers", "datasets", "tensorboard", "jax"}

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Block())
import analysis
for module in pkgutil.walk_packages(analysis.__path__, "analysis."):
    if module.name != "analysis.__main__":
        __import__(module.name)
assert "analysis.command" in sys.modules
loaded = HEAVY & {name.partition(".")[0] for name in sys.modules}
assert not loaded, loaded
"""


def test_analysis_imports_no_training_library() -> None:
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED_IMPORT], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
