"""Configuration: frozen dataclasses with the paper's values as defaults.

A run's whole configuration is stored in its result (`dataclasses.asdict`) and can be rebuilt from it (`from_dict`).
"""

from dataclasses import dataclass, fields

from .errors import ModelError, UsageError

# Segments by the number of the disc they surround (Spinal Cord Toolbox numbering: 3 = disc C2/C3).
SEGMENT_NAMES = {3: "C2-3", 4: "C3-4", 5: "C4-5", 6: "C5-6", 7: "C6-7", 8: "C7-T1"}


def from_dict(kind, values: dict):
    """Rebuild a configuration of class `kind`; unknown names are an error, missing ones take their defaults."""
    known = {field.name for field in fields(kind)}
    unknown = set(values) - known
    if unknown:
        raise ModelError(
            f"Unknown {kind.__name__} settings {sorted(unknown)}: the file was written by a newer version of U2AD."
        )
    return kind(**values)


@dataclass(frozen=True)
class Preprocessing:
    """From the input to standard slices (paper 4.3 "Image Pre-processing")."""

    spacing_mm: float = 1.0
    size: int = 256  # pixels; the window is size × spacing_mm wide
    low_percentile: float = 0.2  # clipped to 0
    high_percentile: float = 99.8  # clipped to 1


@dataclass(frozen=True)
class Purpose:
    """What a model is for.

    contrast: as BIDS names it, "T2w", or what its `acq-` says, "STIR". region: where it looks, in words.
    """

    contrast: str = "T2w"
    region: str = "cervical spinal cord"

    @property
    def bright_fluid(self) -> bool | None:
        """Whether CSF is brighter than the cord, by which an image is known; None where that is not known."""
        return {"T2w": True, "STIR": True}.get(self.contrast)


@dataclass(frozen=True)
class Architecture:
    """The masked autoencoder (paper 3.2 and 4.3)."""

    image_size: int = 256
    patch: int = 8
    width: int = 128
    depth: int = 24
    heads: int = 16
    decoder_width: int = 64
    decoder_depth: int = 8
    decoder_heads: int = 8
    mlp_ratio: float = 4.0
    outside: str = "zero"  # what a patch shows outside the cord: "zero" (x ⊙ M, Algorithm 1) or "keep"
    context: int = 0  # rings of always visible patches around the patches that touch the cord

    def __post_init__(self):
        if self.outside not in ("zero", "keep"):
            raise UsageError(f"outside must be 'zero' or 'keep', not {self.outside!r}.")
        if self.context < 0 or (self.context and self.outside == "zero"):
            raise UsageError("Patches around the cord (context) can only be shown with outside = 'keep'.")
        if self.image_size % self.patch:
            raise UsageError(f"An image of {self.image_size} px cannot be cut into patches of {self.patch} px.")
        if self.width % self.heads or self.decoder_width % self.decoder_heads:
            raise UsageError("The number of attention heads must divide the width.")
        if self.width % 4 or self.decoder_width % 4:
            raise UsageError("The widths must be multiples of 4 (2D sine-cosine position embedding).")

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch


@dataclass(frozen=True)
class MonteCarloConfig:
    """Repeated masked reconstruction (paper, Algorithm 1)."""

    k: int = 10  # every patch is reconstructed at least k times
    mask_ratio: float = 0.75
    scheme: str = "balanced"  # "balanced": each pass shows a fresh part of a permutation; "random": the paper's

    def __post_init__(self):
        if self.k < 2:
            raise UsageError("k must be at least 2: the epistemic uncertainty is a variance over k reconstructions.")
        if not 0 < self.mask_ratio < 1:
            raise UsageError("The mask ratio must lie between 0 and 1.")
        if self.scheme not in ("balanced", "random"):
            raise UsageError(f"The mask scheme must be 'balanced' or 'random', not {self.scheme!r}.")


@dataclass(frozen=True)
class ScoreConfig:
    """From the evidence of each pixel to curve and scores (paper 3.5). The defaults are the paper's."""

    evidence: str = "error"  # "error": |x − mean reconstruction| (paper 3.5.1); "discriminator": a probability
    erosion_px: int = 0  # pixels taken off the cord's border before anything is scored (the paper takes none)
    bottom: str = "percentile"  # reading of "the bottom 20 %": of the ROI's "percentile" or "of_max"
    bottom_fraction: float = 0.2
    components: int = 3  # components kept per slice; 0 keeps all
    across: str = "mean"  # AnoCurve: "mean" over the cord's width (the paper's), or the "max"imum there
    neighbours_mm: float = 0.0  # evidence of neighbouring slices is weighed by a Gaussian of this sigma; 0 uses none
    # Cord so near to the image's upper or lower edge, where scanners distort, enters no score outside named segments.
    edge_mm: float = 0.0
    position: str = "arc"  # AnoCurve along the centreline ("arc", mm) or per image row ("rows", the paper's)

    def __post_init__(self):
        if self.bottom not in ("percentile", "of_max"):
            raise UsageError(f"bottom must be 'percentile' or 'of_max', not {self.bottom!r}.")
        if self.position not in ("arc", "rows"):
            raise UsageError(f"position must be 'arc' or 'rows', not {self.position!r}.")
        if self.evidence not in ("error", "discriminator"):
            raise UsageError(f"evidence must be 'error' or 'discriminator', not {self.evidence!r}.")
        if self.across not in ("mean", "max"):
            raise UsageError(f"across must be 'mean' or 'max', not {self.across!r}.")
