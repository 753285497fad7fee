# `make tune METHOD=cgan_kd` and `make test` work on a fresh machine with Python >= 3.11: they set up .venv first.
METHOD ?= cgan_kd
ARGS ?=
PYTHON ?= python3
BIN := .venv/bin

# A sweep and the tests start many processes: bytecode is made once, not in each (torch, Ray and MLflow: 13 seconds, else 5).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install tune compare test test-unit test-long lint format lock clean

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

tune: install
	$(BIN)/python tune.py --method $(METHOD) $(ARGS)

# Five kinds of teachers for one student, over five seeds, and the report: 19 to 37 minutes on two cores, as fast as they are.
compare: install
	if test -e runs/sweeps/five_teachers; then $(BIN)/python tune.py --resume five_teachers; else \
		$(BIN)/python tune.py --method five_teachers --table teachers --seeds 5 --name five_teachers $(ARGS); fi
	$(BIN)/gankd compare --dataset digits
	$(BIN)/gankd report five_teachers --out report.html

# Two processes take whole files in order, the end-to-end tests first: a long one begun last would leave a core idle.
PYTEST := $(BIN)/python -m pytest -n 2 --no-loadscope-reorder

# The inner loop: formulas, networks, settings and files. Trainings are in tests/training and tests/golden.
test-unit: install
	$(PYTEST) tests/unit tests/methods

test: install
	$(PYTEST)

# Those marked `long`, which `test` leaves out: more real sweeps and kills, of kinds that it has one of.
test-long: install
	$(PYTEST) -m long

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=platform:. $(BIN)/lint-imports --no-cache

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: install
	$(BIN)/uv pip compile --quiet --no-header --no-annotate --no-emit-index-url --extra dev --python-version 3.11 \
		--upgrade pyproject.toml -o requirements.lock

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
