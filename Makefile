# Each target first makes its own virtual environment if there is none.
#   .venv           everything: training, tests, checks
#                   (tests and benchmarks add the implementations that they compare with)
#   .venv-analysis  the analysis alone: no TensorFlow, no Keras
PYTHON ?= python3
CONFIG ?= configs/paper.yaml
PREDICTIONS ?= $(addprefix runs/pocket/predictions/,inference.zarr habitat.zarr)
OUT ?= out
LIMIT_HOURS ?= 72

export TF_CPP_MIN_LOG_LEVEL ?= 2
export KERAS_BACKEND ?= tensorflow

FULL := .venv/installed
PEERS := .venv/peers
BASE := .venv-analysis/installed

.PHONY: demo test test-analysis test-training check plan tasks reproduce analyze bench clean

demo: CONFIG = configs/pocket.yaml

# The paper's experiment is long: what it takes, and whether its tasks can be read, is said first.
plan: $(FULL)
	.venv/bin/python -m scripts.plan $(CONFIG) --limit-hours $(LIMIT_HOURS)

reproduce: tasks
tasks: plan
	.venv/bin/python -m finetune $(CONFIG) --check

demo reproduce: $(FULL)
	.venv/bin/python -m pretrain $(CONFIG)
	.venv/bin/python -m finetune $(CONFIG)
	.venv/bin/python -m predict run $(CONFIG)
	.venv/bin/python -m analysis --config $(CONFIG)

analyze: $(BASE)
	.venv-analysis/bin/python -m analysis $(PREDICTIONS) --out $(OUT)

check: $(FULL)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Both at a time: most tests of either compute on one core.
test: $(PEERS) $(BASE)
	$(MAKE) --no-print-directory --output-sync -j 2 test-analysis test-training

test-analysis: $(BASE)
	.venv-analysis/bin/python -m pytest -q tests/analysis

test-training: $(PEERS)
	.venv/bin/python -m pytest -q tests --ignore=tests/analysis

bench: $(PEERS)
	.venv/bin/python -m scripts.bench

$(FULL): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q -c constraints.txt -e '.[train,dev]'
	touch $@

$(PEERS): $(FULL)
	.venv/bin/python -m pip install -q -c constraints.txt -e '.[train,dev,peers]'
	touch $@

$(BASE): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-analysis
	.venv-analysis/bin/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-analysis
