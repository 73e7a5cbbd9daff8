# Everything a checkout is used for. Needs Python 3.11+, make, a C compiler and Rust; the rest is
# installed into .venv and built into target/. Each step leaves a stamp: a second run is quick.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := target/stamps

# The engine's build profile: `release` is what users get, `dev` builds fast and checks overflows.
ENGINE_SOURCES := Cargo.toml Cargo.lock pyproject.toml \
	$(shell find engine -name '*.rs' -o -name Cargo.toml)
LOAD_SOURCES := $(shell find bench/load -name '*.rs' -o -name 'Cargo.*')
LOAD := --manifest-path bench/load/Cargo.toml --target-dir bench/build/load
CLIPPY := --deny warnings --deny clippy::too_many_lines
FUZZ_TARGETS := request response split bridge
# How long each target runs, from inputs below every bound but that of a head's lines.
FUZZ_SECONDS ?= 600
SOAK_SECONDS ?= 3600
FUZZ := -max_len=4000 -timeout=10 -dict=engine/fuzz/http1.dict -print_final_stats=1
export PATH := $(CURDIR)/$(BIN):$(PATH)

# The dependencies of the project and of the named extras, one a line, as pyproject.toml has them.
REQUIREMENTS = $(BIN)/python -c 'import sys, tomllib; \
	p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	extras = p["optional-dependencies"]; \
	wanted = p["dependencies"] + [d for extra in sys.argv[1:] for d in extras[extra]]; \
	print(*(d for d in wanted if not d.startswith("tulle[")), sep="\n")'
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help
help:  ## Say what can be made.
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: demo
demo: $(STAMPS)/engine-release  ## Build the release engine and run the sample shop until Ctrl-C.
	@$(BIN)/tulle demo

.PHONY: demo-check
demo-check:  ## Run the sample shop for 30 s and judge it; prints one JSON object and nothing else.
	@$(MAKE) --no-print-directory $(STAMPS)/engine-release >&2
	@$(BIN)/tulle demo --check

.PHONY: test
test: test-rust test-python  ## Run every test.

.PHONY: test-rust
test-rust:  ## Run the engine's own tests.
	cargo test --locked --package tulle-engine --package tulle-fuzz
	cargo test --locked $(LOAD)

.PHONY: test-python
test-python: $(STAMPS)/engine-dev $(STAMPS)/packages-dev  ## Run the Python and end-to-end tests.
	$(BIN)/pytest -m "not e2e" --numprocesses 2
	$(BIN)/pytest -m e2e

.PHONY: soak
soak: $(STAMPS)/engine-release $(STAMPS)/packages-dev  ## Carry mixed traffic for SOAK_SECONDS (3600); memory has to stay flat.
	SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/pytest tests/e2e/test_endurance.py

# Of what `test-rust` built only the engine is compiled again, to be observed.
.PHONY: fuzz
fuzz: export RUSTC_WORKSPACE_WRAPPER := $(CURDIR)/engine/fuzz/instrument
fuzz:  ## Fuzz the HTTP/1.1 codec and what lies between it and HTTP/2, each target for FUZZ_SECONDS (600).
	cargo build --locked --package tulle-fuzz --bins
	@set -e; for target in $(FUZZ_TARGETS); do \
		seeds=target/fuzz/$$target/seeds found=target/fuzz/$$target/found; \
		mkdir -p $$seeds $$found; (set -x; \
		FUZZ_SEEDS=$$seeds target/debug/$$target $(FUZZ) \
			-max_total_time=$(FUZZ_SECONDS) -artifact_prefix=target/fuzz/$$target/ \
			$$found $$seeds); \
	done

.PHONY: check
check: check-python check-rust  ## Check format, lint, types and import contracts.

.PHONY: check-python
check-python: $(STAMPS)/packages-dev $(STAMPS)/packages-bench
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports

.PHONY: check-rust
check-rust:
	cargo fmt --all --check
	cargo fmt --check --manifest-path bench/load/Cargo.toml
	cargo clippy --locked --workspace --all-targets -- $(CLIPPY)
	cargo clippy --locked $(LOAD) --all-targets -- $(CLIPPY)

.PHONY: format
format: $(STAMPS)/packages-dev  ## Rewrite sources the way `check` wants them.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	cargo fmt --all
	cargo fmt --manifest-path bench/load/Cargo.toml

.PHONY: bench
bench: $(STAMPS)/engine-release $(STAMPS)/packages-bench bench/build/floor $(STAMPS)/load  ## Measure (about 20 minutes).
	$(BIN)/python -m bench.run; one=$$?; $(BIN)/python -m bench.mesh; two=$$?; \
	$(BIN)/python -m bench.readme && exit $$((one | two))

.PHONY: bench-check
bench-check: $(STAMPS)/engine-release $(STAMPS)/load  ## Count instructions and system calls per request against the baseline.
	$(BIN)/python -m bench.check $(CHECK)

.PHONY: build
build: $(STAMPS)/packages-run  ## Build the wheel into dist/.
	$(BIN)/maturin build --release --locked --out dist

.PHONY: clean
clean:  ## Remove everything that was built or installed.
	rm -rf $(VENV) target bench/build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf .import_linter_cache src/tulle/_engine*.so
	find src tests bench -name __pycache__ -type d -exec rm -rf {} +

# --- what the targets above stand on -------------------------------------------------------------

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; try: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' \
		|| { echo "Python's venv module is needed; on Debian: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	mkdir -p $(@D) && touch $@

$(STAMPS)/packages-run: $(STAMPS)/venv pyproject.toml
	@$(REQUIREMENTS) demo > $@.txt
	$(INSTALL) --requirement $@.txt "maturin>=1.10,<2"
	touch $@

$(STAMPS)/packages-dev: $(STAMPS)/packages-run
	@$(REQUIREMENTS) test check dev > $@.txt
	$(INSTALL) --requirement $@.txt
	touch $@

$(STAMPS)/packages-bench: $(STAMPS)/packages-run
	@$(REQUIREMENTS) bench > $@.txt
	$(INSTALL) --requirement $@.txt
	touch $@

# Only one engine is installed at a time, so one profile's stamp ends the other's.
$(STAMPS)/engine-%: $(ENGINE_SOURCES) $(STAMPS)/packages-run
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --locked --profile $*
	rm -f $(STAMPS)/engine-* && touch $@

$(STAMPS)/load: $(LOAD_SOURCES) $(STAMPS)/venv
	cargo build --locked --release $(LOAD)
	touch $@

bench/build/floor: bench/floor.c
	mkdir -p $(@D)
	$(CC) -O2 -Wall -Wextra -Werror -o $@ $<
