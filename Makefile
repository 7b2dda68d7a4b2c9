# On a new machine start with `make demo` and `make test`; `make help` lists all targets.

RUN := .venv/bin/python -m

.PHONY: help setup demo test test-fast test-original test-slurm-24 test-gpu lint format docs man lock clean

help:  ## print this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

setup:  ## create .venv, or print what it was built for; README, "On a GPU cluster", has the choices
	@tools/setup $(if $(filter setup,$(MAKECMDGOALS)),--report)

demo: setup  ## train, preempt, resume and evaluate a small detector on this machine
	@$(RUN) ecm_cluster.demo

# Whole files run in parallel, since the tests of a file share expensive fixtures; the slow ones wait for a third of their
# time. Tests that fail are run again without parallel load: on a busy machine a real Slurm can miss a test's deadline.
PYTEST := $(RUN) pytest
define tests
@$(PYTEST) --dist loadfile --numprocesses $(1) -m $(2) || { [ $$? = 1 ] \
	&& echo "-- running the failed tests again, without parallel load" \
	&& $(PYTEST) --last-failed --last-failed-no-failures none -m $(2); }
endef

test: test-fast  ## every test, the fast ones first
	$(call tests,3,slow)

test-fast: setup  ## tests that take less than about two seconds each
	$(call tests,2,"not slow")

ORIGINAL := .venv-original/bin/python -m
test-original:  ## the demo and the fast tests on Python 3.8, torch 1.13.1 and mmdet 2.25.2; see docs/guide/stacks.md
	@ECM_CLUSTER_STACK=original tools/setup
	@$(ORIGINAL) pytest tests/verbs/test_demo.py
	@$(ORIGINAL) pytest --dist loadfile --numprocesses 2 -m "not slow"

SLURM_TESTS := tests/on_slurm
test-slurm-24: setup  ## the Slurm tests on Slurm 24.11, in a Debian 13 chroot; see docs/reference/slurm-versions.md
	@export ECM_CLUSTER_REQUIRE_SLURM=1; tools/newer_slurm $(PYTEST) --dist loadfile --numprocesses 3 $(SLURM_TESTS) \
		|| { [ $$? = 1 ] && tools/newer_slurm $(PYTEST) --last-failed --last-failed-no-failures none $(SLURM_TESTS); }

test-gpu:  ## the tests that need a GPU, with any Python here that has CUDA operators; see docs/guide/gpu.md
	@tools/gpu_check test --limit 0 --total 0

lint: setup  ## ruff, mypy, and vermin: no syntax or API newer than Python 3.8
	@$(RUN) ruff check .
	@$(RUN) mypy
	@.venv/bin/vermin --quiet benchmarks ecm_cluster mmdet_ext tests tools

format: setup  ## fix what ruff can fix
	@$(RUN) ruff check --fix .

# an environment of its own: the site is built from the source alone, without torch
DOCS := .venv-docs
$(DOCS)/made: tools/environment/pins/docs.txt
	@"$$(tools/setup --python)" -m venv --clear $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

docs: $(DOCS)/made  ## build the documentation site, build/site/index.html, and check its links
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "built build/site/index.html"

LOCK = cd tools/environment/pins && ../../../.venv/bin/uv pip compile --quiet --upgrade --custom-compile-command "make lock" \
	--no-annotate --python-version

man: setup  ## write man pages of all verbs into build/man
	@$(RUN) tools.manpages

lock: setup  ## pin the newest versions that tools/environment/pins/*.in allow
	@$(LOCK) 3.11 --override overrides.txt requirements.in -o requirements.txt
	@$(LOCK) 3.11 --override overrides.txt --override cuda13.in requirements.in -o cuda13.txt
	@$(LOCK) 3.11 cuda13-nvcc.in -o cuda13-nvcc.txt
	@$(LOCK) 3.8 --override overrides.txt original.in -o original.txt
	@$(LOCK) 3.11 docs.in -o docs.txt

clean:  ## remove .venv and what tools leave behind; runs and data stay
	rm -rf .venv .venv-original .venv-docs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
