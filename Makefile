# Each target works as the first command after a clone: it makes .venv and installs what it needs, once.
# Needs make, git and a Python of 3.11 or later: `make test PYTHON=python3.12` picks another than python3.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CHROMIUM := $(firstword $(foreach name,chromium chromium-browser google-chrome google-chrome-stable,$(shell command -v $(name) 2>/dev/null)))

.PHONY: help demo example-lm test check bench bench-gpu test-browser test-gpu chromium clean
.DELETE_ON_ERROR:

help:
	@echo "make demo          train on handwritten digits, score the predictions, explain the worst"
	@echo "make example-lm    a small language model of Python's own sources, by Kosa and by PyTorch (5 minutes)"
	@echo "make test          all tests but those that need a browser"
	@echo "make check         ruff, mypy, import-linter"
	@echo "make bench         Kosa beside the limit and the other libraries; writes bench/results/"
	@echo "make test-browser  the tests of the HTML pages in a real Chromium"
	@echo "make test-gpu      the tests of the Triton engine on a real GPU"
	@echo "make bench-gpu     the same engine beside the limits of the card and other libraries; writes bench/results/"
	@echo "make clean         remove .venv, caches and the demo's files"

# Stamps say which extras .venv holds; a changed pyproject.toml makes them old.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Kosa needs Python 3.11 or later, and this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/has-demo: $(VENV)/made pyproject.toml
	@echo "Installing Kosa and its demo tools into $(VENV), once …"
	@$(PIP) install --quiet --editable ".[demo]"
	@touch $@

$(VENV)/has-example-lm: $(VENV)/made pyproject.toml
	@echo "Installing Kosa and what its example of a language model needs into $(VENV), once …"
	@$(PIP) install --quiet --editable ".[example-lm]"
	@touch $@

# torch is pinned in pyproject.toml to the version whose build for the CPU pip finds.
$(VENV)/has-test: $(VENV)/made pyproject.toml
	@echo "Installing Kosa and its test and dev tools into $(VENV), once …"
	@$(PIP) install --quiet --editable ".[test,dev]"
	@touch $@

$(VENV)/has-bench: $(VENV)/made pyproject.toml
	@echo "Installing Kosa and its benchmark tools into $(VENV), once …"
	@$(PIP) install --quiet --editable ".[bench]"
	@touch $@

demo: $(VENV)/has-demo
	@$(BIN)/python examples/digits.py

example-lm: $(VENV)/has-example-lm
	@$(BIN)/python examples/language_model.py $(ARGS)

test: $(VENV)/has-test
	$(BIN)/pytest -n auto -m "not browser"

check: $(VENV)/has-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/has-bench
	@mkdir -p bench/results
	$(BIN)/kosa bench $(if $(ROUNDS),--rounds $(ROUNDS)) --json bench/results/latest.json --markdown bench/results/latest.md

# Without a GPU `make test` runs these tests in Triton's interpreter.
test-gpu: $(VENV)/has-test
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "make test-gpu needs a GPU that PyTorch " + torch.__version__ + " can use, and finds none: make test runs the same tests in an interpreter")'
	$(BIN)/pytest -m gpu

bench-gpu: $(VENV)/has-bench
	@mkdir -p bench/results
	@$(BIN)/kosa bench --gpu bench/results $(if $(ROUNDS),--rounds $(ROUNDS))

test-browser: chromium $(VENV)/has-test
	$(BIN)/pytest -m browser

chromium:
ifeq ($(CHROMIUM),)
	@echo "make test-browser opens the HTML pages in Chromium, and there is none here. On Debian or Ubuntu:" >&2
	@echo "    apt-get install chromium fonts-ipafont-gothic" >&2
	@exit 1
endif

clean:
	rm -rf $(VENV) .kosa-demo .kosa-example-lm .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
