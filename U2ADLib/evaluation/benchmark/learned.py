"""Scores of trained model packages in the benchmark, one package for each person who is left out.

`--methods U2ADLib.evaluation.benchmark.learned:Discriminated:models/{person}` (and `:Rebuilt:…`), where `{person}`
stands for the left-out person's name.
"""

from itertools import product

import numpy as np

from ...config import MonteCarloConfig
from ...errors import UsageError
from ...montecarlo import monte_carlo
from ...package import Model, RegionModel, load_model
from ...scoring.evidence import CERTAIN, discriminator_logits
from ...scoring.gain import local_gain
from .methods import Fold, Variant


class Discriminated:
    """The default score's logits."""

    # As it is used: the whole mask, the maximum across the cord. And as the rules are judged.
    variants = tuple(Variant("default score", False, *one) for one in product((0, 1, 2), ("max", "mean")))

    def __init__(self, packages: str):
        self.name, self.packages, self.model = "default score", packages, None

    def fit(self, fold: Fold) -> None:
        """Load the package that never saw the person. :raises UsageError: it did, or does not say whom it saw."""
        self.model = load_model(self.packages.format(person=fold.test))
        refuse_known(self.model, "discriminator_training", fold.test)

    def maps(self, images: np.ndarray, cords: np.ndarray) -> dict[str, np.ndarray]:
        """See `methods.Method`."""
        logits = discriminator_logits(self.model.discriminators, standard(images), cords, None)
        return {"default score": np.where(cords, np.clip(logits, -CERTAIN, CERTAIN), -CERTAIN)}


class Rebuilt(Discriminated):
    """Maps of the Monte Carlo reconstruction: the paper's AnoMap, and the signed residual in units of the cord."""

    variants = ()

    def __init__(self, packages: str):
        super().__init__(packages)
        self.name = "reconstruction"

    def fit(self, fold: Fold) -> None:
        """As `Discriminated.fit`, for the network."""
        self.model = load_model(self.packages.format(person=fold.test))
        refuse_known(self.model, "training", fold.test)

    def maps(self, images: np.ndarray, cords: np.ndarray) -> dict[str, np.ndarray]:
        """See `methods.Method`."""
        images, cords = images[:, :, ::-1], cords[:, :, ::-1]  # the network knows columns from front to back
        size = self.model.network.architecture.image_size
        first = [(size - length) // 2 for length in images.shape[1:]]
        place = tuple(slice(at, at + length) for at, length in zip(first, images.shape[1:], strict=True))
        whole, masks = np.zeros((len(images), size, size), np.float32), np.zeros((len(images), size, size), bool)
        whole[:, *place], masks[:, *place] = standard(images), cords
        rebuilt = monte_carlo(self.model.network, whole, masks, MonteCarloConfig())
        residual = (whole - rebuilt.mean)[:, *place]
        gain = [local_gain(*one)[:, None] for one in zip(whole[:, *place], cords, strict=True)]
        maps = {
            "AnoMap": rebuilt.aleatoric[:, *place],
            "signed residual": np.where(cords, residual / gain, 0),
            "uncertainty": rebuilt.epistemic[:, *place],
        }
        return {name: values[:, :, ::-1].copy() for name, values in maps.items()}


def refuse_known(model: Model | RegionModel, entry: str, person: str) -> None:
    """:raises UsageError: that entry of the model's card says that it has learnt from the person, or not from whom."""
    training = model.card.get(entry, {})
    people = training.get("people")
    if not isinstance(people, list):
        raise UsageError(f"The model {model.name} does not say whom it has learnt from: it cannot be tested.")
    if person in [*people, *training.get("validation_people", ())]:
        raise UsageError(f"The model {model.name} has learnt from {person}: it cannot be tested on {person}.")


def standard(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W) as analyses take them: clipped to percentiles, 0–1."""
    low, high = (np.percentile(images, p, axis=(1, 2), keepdims=True) for p in (0.2, 99.8))
    return np.clip((images - low) / np.maximum(high - low, 1e-6), 0, 1).astype(np.float32)
