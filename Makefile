# Requirements: python3 (3.10 or newer, with venv), pip and make.
#
#   make demo     install, generate a small dataset, train, evaluate, analyze, detect in images and in a video
#   make test     install, then run lint, format check, type check and tests
#   make docs     install, then build the documentation site in build/site

SHELL := /bin/sh
.DEFAULT_GOAL := help

# --- Variables. Set them on the command line (make demo DEMO_EPOCHS=60). The environment is ignored, except for
# PYTHON, because `rm -rf` removes some of these folders. -------------------------------------------------------------
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.10; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo "$$python" && break; done)
VENV = .venv
CONSTRAINTS = constraints.txt
# Number of parallel test processes, at most 4, because each needs about 1 GB for torch.
TEST_WORKERS = auto
PYTEST_ARGS =

DEMO = runs/demo
DEMO_CONFIG = configs/csppelee_efm_sam.yaml
DEMO_IMAGES = 400
DEMO_SIZE = 192
DEMO_INPUT = 160
DEMO_EPOCHS = 11
DEMO_SEED = 0
DEMO_TRAIN = train.eval_interval=5 train.augment.close_mosaic=4

# ------------------------------------------------------------------------------------------------------------------
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
.PHONY: help install test test-fast lint format docs demo clean distclean

# The scripts in $(VENV) and the editable install name this folder: a moved or copied checkout, and an installation that
# was not completed, start with an empty environment.
INSTALLED_IN := $(shell test -e '$(STAMP)' && cat '$(STAMP)' || echo nowhere)
ifneq "$(or $(INSTALLED_IN),$(CURDIR))" "$(CURDIR)"
.PHONY: $(STAMP)
VENV_OPTIONS = --clear
endif

help:
	@sed -n 's/^#   //p' Makefile
	@echo 'make install | test-fast | lint | format | docs | clean | distclean'

install: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt cspdet/__init__.py
	$(if $(PYTHON),,$(error no Python 3.10 or newer found; name one: make PYTHON=/path/to/python3))
	@'$(PYTHON)' -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo "PYTHON=$(PYTHON): expected Python 3.10 or newer with venv"; exit 1; }
	'$(PYTHON)' -m venv $(VENV_OPTIONS) '$(VENV)'
	'$(BIN)/python' -m pip install --disable-pip-version-check -c '$(CONSTRAINTS)' -e '.[dev]'
	@echo '$(CURDIR)' > '$(STAMP)'

lint: install
	'$(BIN)/ruff' check .
	'$(BIN)/ruff' format --check .
	'$(BIN)/mypy'

format: install
	'$(BIN)/ruff' check --fix .
	'$(BIN)/ruff' format .

test: lint
	@'$(BIN)/pytest' -n $(TEST_WORKERS) --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

test-fast: install
	@'$(BIN)/pytest' -m 'not e2e' -n $(TEST_WORKERS) --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

docs: install
	'$(BIN)/python' tools/reference_pages.py
	NO_MKDOCS_2_WARNING=1 '$(BIN)/mkdocs' build --quiet --strict
	@echo 'build/site/index.html'

demo: install
	rm -rf '$(DEMO)'
	'$(BIN)/cspdet' prepare-data shapes --output '$(DEMO)/shapes' --images $(DEMO_IMAGES) --size $(DEMO_SIZE) \
		--seed $(DEMO_SEED)
	'$(BIN)/cspdet' train '$(DEMO_CONFIG)' --output '$(DEMO)/train' 'data=$(DEMO)/shapes/shapes.yaml' \
		input.size=$(DEMO_INPUT) train.epochs=$(DEMO_EPOCHS) train.seed=$(DEMO_SEED) $(DEMO_TRAIN)
	'$(BIN)/cspdet' eval '$(DEMO)/train/best.pt' --output '$(DEMO)/eval'
	'$(BIN)/cspdet' analyze '$(DEMO)/train' --output '$(DEMO)/analyze'
	'$(BIN)/cspdet' detect '$(DEMO)/train/best.pt' '$(DEMO)/shapes/val' --output '$(DEMO)/images'
	'$(BIN)/cspdet' detect '$(DEMO)/train/best.pt' '$(DEMO)/shapes/video.mp4' --output '$(DEMO)/video'
	@echo
	@echo 'Results'
	@echo '  $(DEMO)/train/report.html          open this page first: curves, sample images, errors, data'
	@echo '  $(DEMO)/analyze/index.html         the error analysis'
	@echo '  $(DEMO)/video/video.mp4            the video with detections'
	@echo '  $(DEMO)/images/                    the val images with detections; detections.jsonl lists them'
	@echo '  $(DEMO)/eval/metrics.json          the COCO metrics; detections.json: COCO results'
	@echo '  $(BIN)/tensorboard --logdir $(DEMO)'
	@echo 'To train on your own data, see "Train on your own data" in README.md, or begin with'
	@echo '  $(BIN)/cspdet prepare-data --help'

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis '$(DEMO)'
	find cspdet tools tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf '$(VENV)'
