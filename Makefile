# The targets are the README's commands. Everything runs in .venv, made on first use with the pinned torch.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FULL := $(VENV)/.installed-full
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint aot gpu gpu-tests gpu-kernels gpu-images quality bundled speed tune compare report synthetic bench-cpu clean

NATIVE := CMakeLists.txt $(shell find bindings/csrc -type f)

SOURCES := pyproject.toml constraints.txt setup.py $(NATIVE)

$(STAMP): $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@$(BIN)/python -m restart_bindings
	@touch $@

$(FULL): $(SOURCES)  # with all extras, in one go: a second install would compile the native library again
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[test,bench,diffusers,parquet,ray,zarr,netcdf,ensembles]"
	@$(BIN)/python -m restart_bindings
	@touch $(STAMP) $@

demo: $(STAMP)  ## draw 64 images with Restart from the bundled model into demo/samples/; demo/grid.png shows them
	$(BIN)/restart-sampling generate --preset fashion-mnist-22 --seeds 0-63 --out demo --overwrite

test: $(FULL)  ## the whole test suite, in a process of one thread for each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile tests

lint: $(FULL)
	$(PIP) ruff mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

aot: $(STAMP)  ## compile the kernels for sm_80 and sm_90 without a GPU and print what they cost
	$(BIN)/python -m restart_kernels.aot --arch 80 --arch 90

GPU := PYTHONPATH=engine:kernels:bindings $(PYTHON) benchmarks/gpu/run.py

gpu:  ## on a machine with a GPU, with the system's packages: the three steps below, in order; docs/gpu.md
	$(GPU)

gpu-tests:  ## the suite's GPU tests and compute-sanitizer, in 10 minutes
	$(GPU) --step tests

gpu-kernels:  ## bandwidth of the kernels, launches and waits of a trajectory, a profile, in 10 minutes
	$(GPU) --step kernels

gpu-images:  ## images per second by batch, precision and launch mode, in 10 minutes
	$(GPU) --step images

synthetic: $(FULL)  ## the paper's synthetic experiment: errors against K; error against NFE and ablations; with plots
	$(BIN)/python benchmarks/synthetic_mixture.py
	$(BIN)/python benchmarks/synthetic_curves.py
	$(BIN)/python benchmarks/readme.py

QUALITY := $(BIN)/restart-sampling bench --rounds 0 --out benchmarks/results --n

OTHERS := fashion-mnist-resnet,fashion-mnist-autoencoder,fashion-mnist-patches

quality: $(FULL)  ## FD-classifier of the bundled model: samplers, ablations, the pictures of docs/; some hours on 2 cores, goes on
	$(QUALITY) 1000 --samplers heun,dpm++2m@9,euler,dpm2,dpm++2m,diffusers/dpm++2m --nfe 18
	$(QUALITY) 1000 --samplers euler,ddpm,dpm2,dpm3,dpm++2m,edm-stochastic,torch/heun-fp64,diffusers/heun --nfe 35
	$(QUALITY) 1000 --samplers heun@9,edm-stochastic@63,edm-stochastic@255
	$(QUALITY) 10000 --samplers "dpm++2m@18,edm-stochastic@127,preset:cifar10-vp-55@55,preset:fashion-mnist-22@22"
	$(QUALITY) 5000 --samplers heun --nfe 35
	$(QUALITY) 3000 --samplers heun@63,heun+restart@43,dpm++2m+restart@18
	$(QUALITY) 10000 --samplers dpm++2m+restart --nfe 18 --restart "[3, 2, 0.3, 1.0]"  # at higher noise than the paper's
	$(QUALITY) 5000 --samplers heun+restart --nfe 43 --restart "[3, 2, 0.3, 1.0]"
	$(QUALITY) 1000 --samplers torch/restart-fp64 --nfe 43 --restart "[3, 2, 0.3, 1.0]"
	$(QUALITY) 1000 --samplers heun+restart --nfe 63 --restart "[3, 3, 0.3, 1.0]"
	$(QUALITY) 5000 --features $(OTHERS) --samplers "dpm++2m@18,preset:fashion-mnist-22@22,heun@35,preset:cifar10-vp-55@55,preset:cifar10-vp-75@75,edm-stochastic@127"
	$(QUALITY) 5000 --samplers preset:cifar10-vp-75@75
	$(QUALITY) 5000 --features fashion-mnist-classifier,$(OTHERS) --samplers preset:fashion-mnist-27@27,preset:fashion-mnist-44@44
	$(BIN)/python benchmarks/ablations.py
	$(BIN)/python benchmarks/pictures.py
	$(BIN)/python benchmarks/readme.py

bundled: $(FULL)  ## the two bundled models on the same ten blocks of seeds; docs/training.md; half an hour on 2 cores, goes on
	for model in fashion-mnist fashion-mnist-edm2; do $(BIN)/restart-sampling bench --model $$model --rounds 0 --n 10000 \
		--features all --samplers preset:fashion-mnist-22@22 --out benchmarks/results/bundled || exit; done
	$(BIN)/python benchmarks/readme.py

SPEED := $(BIN)/restart-sampling bench --batch 32 --rounds 5 --out benchmarks/results --samplers
AT_QUALITY := dpm++2m@9,heun@18,dpm2@18,dpm++2m@18,dpm++2m+restart@18,diffusers/dpm++2m@18,heun@35,dpm++2m@35,diffusers/heun@35
AT_QUALITY := $(AT_QUALITY),heun+restart@43,preset:fashion-mnist-22@22,preset:cifar10-vp-55@55,heun@63,edm-stochastic@63,edm-stochastic@127

speed: $(FULL)  ## samples per second of every sampler at equal evaluations; docs/performance.md; wants a quiet machine
	$(SPEED) all --nfe 18
	$(SPEED) "$(AT_QUALITY)" --together
	$(BIN)/python benchmarks/pictures.py
	$(BIN)/python benchmarks/readme.py

SEARCH := $(BIN)/restart-sampling tune --plans benchmarks/candidates.json --trials 21 --n 500 --levels 5 --solver dpm++2m,heun
SEARCH := $(SEARCH) --max-nfe 43 --budget 22,30,43 --no-confirm --out benchmarks/results/search

tune: $(FULL)  ## search the plans of the bundled model for three budgets; goes on where the committed rows end
	$(SEARCH) --features fashion-mnist-autoencoder --storage tune/search-autoencoder.db
	$(SEARCH) --features fashion-mnist-patches --storage tune/search-patches.db
	$(BIN)/restart-sampling tune --features fashion-mnist-classifier --budget 20,43,63 --trials 110 --n 500 --max-nfe 63 --solver dpm++2m,heun \
		--final-n 2000 --confirm-n 3000 --storage tune/tune.db --out benchmarks/results
	$(BIN)/python benchmarks/readme.py

compare: $(FULL)  ## the best ODE, SDE and Restart at equal evaluations, each found by as many trials; hours on 2 cores, goes on
	$(BIN)/python benchmarks/search_samplers.py
	$(BIN)/python benchmarks/comparison.py --blocks 3
	$(BIN)/python benchmarks/readme.py

report: $(FULL)  ## all committed rows as one HTML page, report.html
	$(BIN)/restart-sampling report benchmarks/results

bench-cpu: $(FULL)  ## the sampler's own cost and images per second on this CPU, against plain PyTorch loops; docs/performance.md
	$(BIN)/python benchmarks/overhead_cpu.py
	$(BIN)/python benchmarks/images_per_second_cpu.py
	$(BIN)/python benchmarks/guidance_interval_cpu.py
	$(BIN)/python benchmarks/readme.py

clean:
	rm -rf $(VENV) build dist *.egg-info engine/*.egg-info demo samples
	rm -f bindings/restart_bindings/_native_*.so
