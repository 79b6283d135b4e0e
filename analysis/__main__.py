"""Run the analysis stage: ``python -m analysis FILE.zarr... --out DIR``."""

from __future__ import annotations

from analysis.command import analyze

if __name__ == "__main__":
    analyze(prog_name="python -m analysis")
