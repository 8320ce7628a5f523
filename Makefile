# The targets are the README's commands. Everything runs in .venv, made on first use with the pinned torch.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint aot gpu quality synthetic bench-cpu clean

NATIVE := CMakeLists.txt $(shell find bindings/csrc -type f)

$(STAMP): pyproject.toml constraints.txt setup.py $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@$(BIN)/python -m restart_bindings
	@touch $(STAMP)

demo: $(STAMP)  ## draw 64 images with Restart from the bundled model into samples/
	$(BIN)/restart-sampling generate --preset fashion-mnist-43 --seeds 0-63 --out samples --overwrite

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt ruff mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

aot: $(STAMP)  ## compile the kernels for sm_80 and sm_90 without a GPU and print what they cost
	$(BIN)/python -m restart_kernels.aot --arch 80 --arch 90

gpu:  ## on a machine with a GPU: tests, bandwidth, launches, images/s in 9 minutes, with the system's packages
	PYTHONPATH=engine:kernels:bindings $(PYTHON) benchmarks/gpu/run.py

synthetic: $(STAMP)  ## the paper's synthetic experiment: errors against K, with a plot
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/synthetic_mixture.py

quality: $(STAMP)  ## FD-classifier of the bundled model at several NFE, Heun and Restart
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/quality_fashion_mnist.py

bench-cpu: $(STAMP)  ## the sampler's own cost and images per second on this CPU, against plain PyTorch loops; README's tables
	$(BIN)/python benchmarks/overhead_cpu.py
	$(BIN)/python benchmarks/images_per_second_cpu.py
	$(BIN)/python benchmarks/readme.py

clean:
	rm -rf $(VENV) build dist *.egg-info engine/*.egg-info samples
	rm -f bindings/restart_bindings/_native_*.so
