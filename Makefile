# make demo    set up, then adapt the embedded model to the embedded data
# make test    set up, then check style and types and run all tests
# make samples-swift    compile samples/ios and run its tests, where there is a Swift compiler
# make quick   the same without converters, browsers and the slowest tests, for everyday work
# make docs    build the documentation as a site in build/site
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Training needs Python 3.10-3.12; with a newer one, everything that needs only inference is set up.
EXTRA := $(shell $(PYTHON) -c "import sys; print('training' if sys.version_info < (3, 13) else 'inference')" 2>/dev/null)

# Environments are set up in parallel, because much of the time is spent waiting. Python compiles modules when they are imported;
# --no-compile keeps pip from compiling all of them, which took half of its time.
MAKEFLAGS += --jobs=4

.PHONY: demo test core quick docs samples-swift check benchmarks matrix clean

demo: $(VENV)/.installed
	$(BIN)/adabet-onnx demo

# Tests run on every core. The package is compiled first, for the processes that tests start.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
CONVERTERS := tests/converters

# The converters' tests run last, while the environments of other frameworks are set up.
test: core .venv-keras/.installed .venv-jax/.installed
	$(PYTEST) $(CONVERTERS)

core: $(VENV)/.test .venv-inference/.installed .venv-openvino/.installed .venv-oldest/.installed \
  tests/js/node_modules/.installed build/onnxruntime/.installed \
  tests/mobile/node_modules/.installed .venv-fleet/.installed .venv-docs/.installed check
	$(BIN)/python -m compileall -q adabet_onnx
	$(PYTEST) --ignore=$(CONVERTERS)

quick: $(VENV)/.test check
	$(BIN)/python -m compileall -q adabet_onnx
	$(PYTEST) -m 'not slow' --ignore=$(CONVERTERS)

# samples/ios in Swift, where there is a compiler: swiftc, or what SWIFTC names (tests/device_sources/swift_chroot.sh makes one).
samples-swift: $(VENV)/.test .venv-inference/.installed build/onnxruntime/.installed
	$(BIN)/python -m pytest tests/device -k swift

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmarks: $(VENV)/.test
	for benchmark in $(filter-out %/bench_matrix.py,$(wildcard tests/benchmarks/bench_*.py)); do $(BIN)/python $$benchmark || exit 1; done

# What trains, by architecture, exporter, selection and backend: docs/support-matrix.md. It takes hours on a small machine, and
# continues where it was stopped. With Ray in .venv (pip install ray): make matrix RAY=local, or RAY=HOST:PORT.
matrix: $(VENV)/.test
	mkdir -p build docs
	$(BIN)/python tests/benchmarks/bench_matrix.py --rows build/matrix.jsonl $(addprefix --ray ,$(RAY)) > build/support-matrix.md
	mv build/support-matrix.md docs/support-matrix.md
	rm build/matrix.jsonl

# The site, with every link checked, and nothing in it that a browser would fetch from elsewhere.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict
	.venv-docs/bin/python docs/site/check_built.py build/site

.venv-docs/.installed: pyproject.toml
	test -x .venv-docs/bin/python || { rm -rf .venv-docs; $(PYTHON) -m venv .venv-docs; }
	.venv-docs/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-docs/bin/python -m pip install --quiet --no-compile --group docs || \
	  echo "MkDocs could not be installed: the documentation's site is not built"
	touch $@

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
	  { echo "Python 3.10 or newer is needed; choose one with make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[$(EXTRA)]'
	touch $@

# torch computes independent gradients for comparison, and models to convert. Without it, these tests skip (in CI they fail).
$(VENV)/.test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --group test
	$(BIN)/python -m pip install --quiet --no-compile --group torch || echo "torch could not be installed: tests that need it are skipped"
	touch $@

# The stock onnxruntime cannot be installed beside onnxruntime-training-cpu. Tests of exported models use this environment.
.venv-inference/.installed: pyproject.toml
	test -x .venv-inference/bin/python || { rm -rf .venv-inference; $(PYTHON) -m venv .venv-inference; }
	.venv-inference/bin/python -m pip install --quiet --no-compile --editable '.[inference]'
	touch $@

# An execution provider that needs no accelerator, for tests of scoring and training on other providers.
.venv-openvino/.installed: pyproject.toml
	test -x .venv-openvino/bin/python || { rm -rf .venv-openvino; $(PYTHON) -m venv .venv-openvino; }
	.venv-openvino/bin/python -m pip install --quiet --no-compile --editable . onnxruntime-openvino || \
	  echo "onnxruntime-openvino could not be installed: its tests are skipped"
	touch $@

# Flower (for Python 3.11 and newer) and Ray, for tests of fleets and clusters.
.venv-fleet/.installed: pyproject.toml
	test -x .venv-fleet/bin/python || { rm -rf .venv-fleet; $(PYTHON) -m venv .venv-fleet; }
	.venv-fleet/bin/python -m pip install --quiet --no-compile --editable '.[inference,fleet,cluster]' || \
	  echo "Flower or Ray could not be installed: their tests are skipped"
	touch $@

# The oldest onnxruntime that training steps run on, without this package.
.venv-oldest/.installed:
	test -x .venv-oldest/bin/python || { rm -rf .venv-oldest; $(PYTHON) -m venv .venv-oldest; }
	.venv-oldest/bin/python -m pip install --quiet --no-compile 'onnxruntime==1.17.3' 'numpy<2' || \
	  echo "onnxruntime 1.17.3 could not be installed (it is for Python 3.8 to 3.12): its tests are skipped"
	touch $@

# The dependencies of converters/from_keras.py. TensorFlow pins versions that conflict with the package's.
.venv-keras/.installed: converters/from_keras.py
	test -x .venv-keras/bin/python || { rm -rf .venv-keras; $(PYTHON) -m venv .venv-keras; }
	.venv-keras/bin/python -m pip install --quiet --no-compile keras numpy onnx onnxruntime tensorflow-cpu tf2onnx || \
	  echo "TensorFlow or tf2onnx could not be installed: their tests are skipped"
	touch $@

# The dependencies of converters/from_jax.py.
.venv-jax/.installed: converters/from_jax.py
	test -x .venv-jax/bin/python || { rm -rf .venv-jax; $(PYTHON) -m venv .venv-jax; }
	.venv-jax/bin/python -m pip install --quiet --no-compile flax jax 'jax2onnx>=0.17' numpy onnx onnxruntime || \
	  echo "JAX or jax2onnx could not be installed (they are for Python 3.11 and newer): their tests are skipped"
	touch $@

# For samples/c: a compiler, and ONNX Runtime's header (the library is in .venv-inference).
build/onnxruntime/.installed: tests/device_sources/onnxruntime_header.sh
	mkdir -p $(dir $@)
	{ command -v cc && command -v c++ && command -v cmake && command -v pkg-config; } >/dev/null || \
	  (apt-get update -qq && apt-get install -y -qq --no-install-recommends cmake gcc g++ pkg-config) >/dev/null 2>&1 || \
	  echo "there is no C compiler or cmake, and apt-get could not install them: tests of samples/c are skipped"
	sh tests/device_sources/onnxruntime_header.sh $(dir $@) || \
	  echo "onnxruntime_c_api.h could not be fetched: tests of samples/c are skipped"
	touch $@

# For samples/csharp, java and android: mono, a JDK, Kotlin's compiler, and the package with ONNX Runtime's C# sources and Android
# classes. Targets that may call apt-get wait for each other, because apt-get runs only once at a time.
tests/mobile/node_modules/.installed: tests/mobile/package.json | tests/js/node_modules/.installed
	mkdir -p $(dir $@)
	cd tests/mobile && npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts || \
	  echo "npm could not install what samples of mobile platforms are compiled with: their tests are skipped"
	{ command -v mcs && command -v mono; } >/dev/null || \
	  (apt-get update -qq && apt-get install -y -qq --no-install-recommends mono-mcs mono-runtime) >/dev/null 2>&1 || \
	  echo "there is no mono, and apt-get could not install it: tests of samples/csharp are skipped"
	command -v javac >/dev/null || \
	  (apt-get update -qq && apt-get install -y -qq --no-install-recommends openjdk-17-jdk-headless) >/dev/null 2>&1 || \
	  echo "there is no JDK, and apt-get could not install it: tests of samples/java are skipped"
	touch $@

# The newest onnxruntime for node and browsers, the build tools of samples/web, and a real browser.
tests/js/node_modules/.installed: tests/js/package.json | build/onnxruntime/.installed
	mkdir -p $(dir $@)
	cd tests/js && npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts || \
	  echo "npm could not install onnxruntime and TypeScript: tests of node and browsers are skipped"
	command -v chromium || command -v google-chrome || \
	  (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium) >/dev/null 2>&1 || \
	  echo "there is no Chromium, and apt-get could not install it: its test is skipped"
	touch $@

clean:
	rm -rf $(VENV) .venv-inference .venv-openvino .venv-oldest .venv-fleet .venv-keras .venv-jax .venv-docs tests/js/node_modules \
  tests/mobile/node_modules adabet-demo build dist \
	  .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
