# Plain `make` explains the targets. Each one first brings .venv up to date: seconds when nothing changed.
# Values reach the shell through the environment, never by substitution, so spaces and quotes in them do no harm.

PYTHON ?= python3
TIER   ?= laptop
SEEDS  ?= 0-2
JOBS   ?= auto
ONLY   ?=
EXTRAS ?= dev
export PYTHON TIER SEEDS JOBS ONLY EXTRAS

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help install reproduce test lab book bench clean

help:  ## this list
	@printf 'make TARGET [TIER=smoke|laptop|gpu|paper] [SEEDS=0-2] [JOBS=auto] [ONLY=p1] [EXTRAS=dev,gpu] [PYTHON=python3]\n\n'
	@sed -n 's/^\([a-z]*\):[^#]*## */\1|/p' Makefile | awk -F'|' '{ printf "  %-10s %s\n", $$1, $$2 }'

install:  ## create .venv and install the pinned packages; instant when nothing changed
	@command -v "$$PYTHON" >/dev/null || { echo "$$PYTHON not found: Python 3.11 or newer is needed (make PYTHON=...)" >&2; exit 1; }
	@"$$PYTHON" scripts/install.py --extras "$$EXTRAS"

reproduce: install  ## run the chapters of TIER for SEEDS and build the book; ONLY=p1 narrows it to a paper or chapter
	@if [ "$$JOBS" = auto ]; then JOBS=0; fi; \
	.venv/bin/repro run --tier "$$TIER" --seeds "$$SEEDS" --jobs "$$JOBS" $${ONLY:+--only "$$ONLY"}; status=$$?; \
	if [ -f book/_build/html/index.html ]; then printf 'The book: %s\n' "$$(pwd)/book/_build/html/index.html"; fi; \
	exit $$status

test: install  ## run the tests, two files at a time
	@.venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lab: install  ## open JupyterLab on the chapters
	@.venv/bin/python -m jupyter lab notebooks

book: install  ## build the book from the chapters that have run
	@.venv/bin/repro book --tier "$$TIER"; status=$$?; \
	if [ -f book/_build/html/index.html ]; then printf 'The book: %s\n' "$$(pwd)/book/_build/html/index.html"; fi; \
	exit $$status

bench: install  ## run the benchmarks: name, ours, plain, ratio, target; ONLY=name runs one
	@.venv/bin/python -m benchmarks.harness $${ONLY:+"$$ONLY"}

clean:  ## remove what runs made: results, chapters, book; data and .venv stay
	@if [ -x .venv/bin/repro ]; then .venv/bin/repro clean --all; else rm -rf runs book/chapters book/_build; fi
	@rm -rf .snakemake
