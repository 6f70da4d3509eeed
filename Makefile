# Every target works on a machine with Python 3.11 or newer, make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

DATA ?= ../shared/data/uci
OUTLIERS ?= ../shared/data/outlier
WORKERS := -n auto --maxprocesses 4 --dist worksteal

.PHONY: demo test test-slow lint docs-test bench bench-mdn bench-slogan bench-outlier bench-files bench-gpu bench-spark clean

# Installed anew whenever what to install has changed.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/python examples/old_faithful.py --out demo-output

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(WORKERS) -m 'not slow' tests
	$(MAKE) --no-print-directory docs-test

# Of Spark too, where there is a Java runtime.
$(VENV)/spark: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[spark]'
	touch $@

test-slow: $(VENV)/spark
	$(BIN)/python -m pytest -q -m slow tests

docs-test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(WORKERS) --doctest-modules --doctest-glob='*.md' src README.md docs

lint: $(VENV)/installed
	$(BIN)/ruff check src tests examples benchmarks
	$(BIN)/ruff format --check src tests examples benchmarks
	$(BIN)/pyright
	$(BIN)/lint-imports

# Rivals are installed beside; about half an hour on two cores.
bench: $(VENV)/rivals
	$(BIN)/python benchmarks/em_speed.py --out benchmarks/results/em_speed.json
	$(BIN)/python benchmarks/em_speed.py --cases grid --rivals oneDAL --repeats 5 --out benchmarks/results/em_grid.json
	$(BIN)/python benchmarks/whole_fits.py --seeds 12 --out benchmarks/results/whole_fits.json
	$(BIN)/python benchmarks/whole_fits.py --seeds 12 --pause 0.02 --out benchmarks/results/whole_fits_rested.json
	$(BIN)/python benchmarks/growing_samples.py --out benchmarks/results/growing_samples.json
	$(BIN)/python benchmarks/many_fits.py --out benchmarks/results/many_fits.json
	$(BIN)/python benchmarks/gradient_passes.py
	$(BIN)/python benchmarks/bayes_speed.py
	$(BIN)/python benchmarks/mdn_speed.py

$(VENV)/rivals: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

# Needs the UCI sets in a folder: see the head of the benchmark. About an hour on two cores.
bench-mdn: $(VENV)/installed
	$(BIN)/python benchmarks/mdn_uci.py --data $(DATA)

# Needs tables of ADBench in a folder: see the head of the benchmark. About an hour on two cores.
bench-outlier: $(VENV)/installed
	$(BIN)/python benchmarks/outlier_auroc.py --data $(OUTLIERS)

# 50 million rows in Parquet files: 1.6 GB of a temporary folder.
bench-files: $(VENV)/installed
	$(BIN)/python benchmarks/larger_than_memory.py --out benchmarks/results/larger_than_memory.json

# Needs a GPU that this torch knows.
bench-gpu: $(VENV)/installed
	$(BIN)/python benchmarks/gpu_speed.py --out benchmarks/results/gpu_speed.json

# Needs a Java runtime.
bench-spark: $(VENV)/spark
	$(BIN)/python benchmarks/spark_speed.py --out benchmarks/results/spark_speed.json

# About an hour on two cores.
bench-slogan: $(VENV)/installed
	$(BIN)/python benchmarks/slogan_quality.py --out benchmarks/results/slogan_quality.json

clean:
	rm -rf $(VENV) demo-output build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name '*.egg-info' -o -name __pycache__ | xargs rm -rf
