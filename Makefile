# `make demo` and `make test` do all there is to do on a fresh machine; `make help` lists the rest.

RUN := .venv/bin/python -m

.PHONY: help setup demo test test-fast test-slurm-24 test-gpu lint format lock clean

help:  ## print this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

setup:  ## make .venv, or say what it was made for; README, "On a GPU cluster", has the choices
	@tools/setup $(if $(filter setup,$(MAKECMDGOALS)),--report)

demo: setup  ## train, preempt, resume and evaluate a small detector on this machine
	@$(RUN) ecm_cluster.demo

# whole files side by side, as tests of one file share what is expensive; the slow ones wait for a third of their time.
# What fails beside others runs once more by itself: what then fails has failed, and a machine that was too busy has not.
PYTEST := $(RUN) pytest
define tests
@$(PYTEST) --dist loadfile --numprocesses $(1) -m $(2) || { [ $$? = 1 ] \
	&& echo "-- once more, by themselves, those that failed" \
	&& $(PYTEST) --last-failed --last-failed-no-failures none -m $(2); }
endef

test: test-fast  ## every test, the fast ones first
	$(call tests,3,slow)

test-fast: setup  ## the tests that take less than about two seconds each
	$(call tests,2,"not slow")

SLURM_TESTS := tests/slurm
test-slurm-24: setup  ## the Slurm tests on Slurm 24.11, in a Debian 13 that is made for them; see docs/slurm-versions.md
	@export ECM_CLUSTER_REQUIRE_SLURM=1; tools/newer_slurm $(PYTEST) --dist loadfile --numprocesses 3 $(SLURM_TESTS) \
		|| { [ $$? = 1 ] && tools/newer_slurm $(PYTEST) --last-failed --last-failed-no-failures none $(SLURM_TESTS); }

test-gpu:  ## the tests that need a GPU, with any Python here that has CUDA operators; see docs/gpu.md
	@tools/gpu_check test --limit 0 --total 0

lint: setup  ## ruff and mypy
	@$(RUN) ruff check .
	@$(RUN) mypy

format: setup  ## mend what ruff can mend
	@$(RUN) ruff check --fix .

LOCK = cd tools/environment && ../../.venv/bin/uv pip compile --quiet --upgrade --python-version 3.11 \
	--custom-compile-command "make lock" --no-annotate

lock: setup  ## pin the newest versions that tools/environment/*.in admit
	@$(LOCK) --override overrides.txt requirements.in -o requirements.txt
	@$(LOCK) --override overrides.txt --override cuda13.in requirements.in -o cuda13.txt
	@$(LOCK) cuda13-nvcc.in -o cuda13-nvcc.txt

clean:  ## remove .venv and what tools leave behind; runs and data stay
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
