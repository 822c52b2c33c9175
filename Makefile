# Two commands on a fresh machine: `make demo` and `make test`. Both first make .venv in this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
U2AD := $(BIN)/u2ad
READY := $(VENV)/.ready

# Processes that share the tests, each with one thread: a file of tests stays together.
WORKERS ?= 2

# The bundled phantom, or your own: make demo INPUT=neck.nii.gz [CORD=neck_seg.nii.gz] [DISCS=neck_discs.nii.gz]
SAMPLE := Resources/Sample
INPUT ?= $(SAMPLE)/sample_T2w.nii.gz
CORD ?=
DISCS ?=
OUT ?= demo-result

.PHONY: demo test bench lint sample screenshots model region region-without clean help

help:
	@echo "make demo    analyse the bundled sample (or INPUT=…; CORD=… and DISCS=… where you have them)"
	@echo "make test    lint and run the tests"
	@echo "make bench   measure speed, as ratios within one run"
	@echo "make sample  simulate the bundled sample again (the same bytes)"
	@echo "make screenshots  draw the pictures of the panel again"
	@echo "make model   train the bundled model again, or with PEOPLE=… one of yours (hours on two cores)"
	@echo "make region  train the model that finds cord and levels again (the same)"

# torch first and alone: a range would take a CUDA build of several gigabytes here.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e '.[test]'
	@touch $@

demo: $(READY)
	$(U2AD) analyse $(INPUT) $(if $(CORD),--cord $(CORD)) $(if $(DISCS),--discs $(DISCS)) --no-labels-beside --out $(OUT) --overwrite

test: $(READY) lint
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff check U2ADLib U2AD Testing
	$(BIN)/ruff format --check U2ADLib U2AD Testing

bench: $(READY)
	$(BIN)/python Testing/bench.py

sample: $(READY)
	$(U2AD) simulate --seed 7 --name sample --lesion C4-5:0.25:4x12x8 --lesion C6-7:0.2:4x8x8 --bulge C5-6:1.2 \
	  --out $(SAMPLE) --overwrite

screenshots: $(READY)
	$(BIN)/python Testing/screenshots.py

# The bundled model: the network, then the discriminators of the default score, then thresholds. Every step goes on where
# it was stopped; cords without a mask are found. With a data set of the same form, Spine Generic for instance, and
# somebody else to choose the epoch: make model PEOPLE=../spine-generic LEARN= VALIDATION=neck_T2w.nii.gz MODEL=ours
DATA ?= ../shared/data
PEOPLE ?= $(DATA)/errsm
LEARN ?= sub-errsm11 sub-errsm21
VALIDATION ?= $(DATA)/sct_testing_data/t2.nii.gz
MODEL ?= runs/u2ad-t2w
model: $(READY)
	test -f $(MODEL)-network/model.json || $(U2AD) pretrain $(PEOPLE) $(if $(LEARN),--people $(LEARN)) \
	  --validation $(VALIDATION) --phantoms 300 --threshold-phantoms 0 --epochs 100 --out $(MODEL)-network
	test -f $(MODEL)/model.json || $(U2AD) train-discriminator $(PEOPLE) --region-model default \
	  --model $(MODEL)-network --count 2 --out $(MODEL)
	$(U2AD) thresholds $(MODEL) --healthy $(PEOPLE) --phantoms 100

# Finds cord and levels. People without a mask first get one from a model that was trained without them; a stopped
# training goes on. What a person who was left out shows, for the table in MEASUREMENTS.md: make region-without PERSON=sub-errsm11
MASKLESS ?= sub-errsm20 sub-sctexample
REGION ?= runs/u2ad-region
region: $(READY)
	for person in $(MASKLESS); do $(MAKE) region-without PERSON=$$person || exit 1; done
	$(U2AD) train-region $(PEOPLE) $(if $(MASKLESS),--region-models '$(REGION)-{person}') --out $(REGION)
	$(BIN)/python -m U2ADLib.evaluation.regions --phantoms 40 --model $(REGION) --into-card

region-without: $(READY)
	test -f $(REGION)-$(PERSON)/model.json || $(U2AD) train-region $(PEOPLE) --held-out $(PERSON) --out $(REGION)-$(PERSON)

clean:
	rm -rf $(VENV) demo-result build *.egg-info
