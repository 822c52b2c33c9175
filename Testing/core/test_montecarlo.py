"""The fast Monte Carlo against Algorithm 1 of the paper written down literally."""

import numpy as np
import pytest
import torch

from U2ADLib.config import Architecture, MonteCarloConfig
from U2ADLib.errors import Cancelled, InputError
from U2ADLib.mae import EdgeMAE
from U2ADLib.masking import balanced_passes, random_passes
from U2ADLib.montecarlo import monte_carlo


def make_network(**changes):
    return (
        EdgeMAE(Architecture(depth=2, decoder_depth=1, **changes)).initialise(torch.Generator().manual_seed(0)).eval()
    )


@pytest.fixture(scope="module")
def slices():
    rng = np.random.default_rng(0)
    images = rng.random((3, 256, 256)).astype(np.float32)
    cords = np.zeros((3, 256, 256), bool)
    cords[0, 40:200, 124:131] = True
    cords[1, 60:90, 100:120] = True
    cords[2, 8:14, 16:20] = True  # a single patch
    return images, cords


@torch.no_grad()
def algorithm_1(network, image, cord, config, rng):
    """Patch by patch and pass by pass, with lists, as printed. Returns μ, AU and EU of one slice."""
    p, grid = network.architecture.patch, network.architecture.grid
    masked_image = image * cord  # x ⊙ M
    cells = [(r, c) for r in range(grid) for c in range(grid) if cord[r * p : r * p + p, c * p : c * p + p].any()]
    draw = balanced_passes if config.scheme == "balanced" else random_passes
    drawn = draw(len(cells), config.k, config.mask_ratio, rng)
    masked, used = (drawn, drawn) if config.scheme == "balanced" else drawn
    reconstructions = [[] for _ in cells]
    for hide, use in zip(masked, used, strict=True):
        visible = [i for i in range(len(cells)) if not hide[i]]
        target = [i for i in range(len(cells)) if hide[i]]
        shown = [masked_image[r * p : r * p + p, c * p : c * p + p].reshape(-1) for r, c in (cells[i] for i in visible)]
        position = [r * grid + c for r, c in cells]
        shown = torch.tensor(np.array(shown, np.float32).reshape(1, len(visible), p * p))
        where = [torch.tensor([[position[i] for i in which]], dtype=torch.long) for which in (visible, target)]
        pixels, _ = network(shown, *where)
        for i, patch in zip(target, pixels[0].numpy(), strict=True):
            if use[i]:
                reconstructions[i].append(patch.reshape(p, p).astype(np.float64))
    mean, eu = np.zeros(image.shape), np.zeros(image.shape)
    for (r, c), stack in zip(cells, reconstructions, strict=True):
        assert len(stack) >= config.k
        mean[r * p : r * p + p, c * p : c * p + p] = np.mean(stack, axis=0)
        eu[r * p : r * p + p, c * p : c * p + p] = np.var(stack, axis=0, ddof=1)
    return mean * cord, np.abs(image - mean) * cord, eu * cord


@pytest.mark.parametrize("scheme", ["balanced", "random"])
def test_same_maps_as_the_literal_algorithm(slices, scheme):
    images, cords = slices
    config = MonteCarloConfig(k=4, scheme=scheme)
    network = make_network()
    fast = monte_carlo(network, images, cords, config, seed=7, rows_per_batch=5)
    for i in range(3):
        mean, au, eu = algorithm_1(network, images[i], cords[i], config, np.random.default_rng([7, i]))
        np.testing.assert_allclose(fast.mean[i], mean, atol=1e-5)
        np.testing.assert_allclose(fast.aleatoric[i], au, atol=1e-5)
        np.testing.assert_allclose(fast.epistemic[i], eu, atol=1e-6, rtol=1e-3)


def test_batch_size_and_neighbours_change_nothing(slices):
    images, cords = slices
    network = make_network()
    together = monte_carlo(network, images, cords, rows_per_batch=64)
    first = monte_carlo(network, images[:1], cords[:1], rows_per_batch=3)
    np.testing.assert_allclose(together.mean[:1], first.mean, atol=1e-5)


def test_nothing_outside_the_cord_reaches_the_result_when_outside_is_zero(slices):
    images, cords = slices
    changed = np.where(cords, images, 1 - images)
    one, other = (monte_carlo(make_network(), x, cords).mean for x in (images, changed))
    np.testing.assert_array_equal(one, other)
    keep = [monte_carlo(make_network(outside="keep"), x, cords).mean for x in (images, changed)]
    assert np.abs(keep[0] - keep[1]).max() > 1e-3


def test_context_is_shown_but_not_rebuilt(slices):
    images, cords = slices
    far = images.copy()
    far[0, 40:200, 100:110] = 0  # two patch columns from the cord: outside a ring of one
    near = images.copy()
    near[0, 100, 112:118] = 0
    network = make_network(outside="keep", context=1)
    base, unchanged, different = (monte_carlo(network, x[:1], cords[:1]) for x in (images, far, near))
    np.testing.assert_array_equal(base.mean, unchanged.mean)
    assert np.abs(base.mean - different.mean).max() > 1e-4
    assert not base.mean[~cords[:1]].any()


def test_balanced_masks_agree_with_random_ones_on_average_and_vary_no_more(slices):
    """Same expectation; seed-to-seed variance no worse at the same number of passes."""
    images, cords = slices[0][1:2], slices[1][1:2]
    network = make_network()
    balanced = MonteCarloConfig(k=10)
    passes = monte_carlo(network, images, cords, balanced).passes
    inside = cords[0]
    maps = {"balanced": [], "random": []}
    for seed in range(60):
        maps["balanced"].append(monte_carlo(network, images, cords, balanced, seed).mean[0][inside])
        rng = np.random.default_rng([seed, 99])
        maps["random"].append(_random_mean(network, images, cords, passes, rng)[inside])
    one, other = (np.array(maps[name]) for name in ("balanced", "random"))
    standard_error = np.sqrt((one.var(0, ddof=1) + other.var(0, ddof=1)) / 60)
    assert np.abs((one.mean(0) - other.mean(0)) / standard_error).mean() < 1.1  # 0.8 for equal expectations
    assert one.var(0, ddof=1).mean() <= other.var(0, ddof=1).mean()


def _random_mean(network, images, cords, passes, rng):
    """Mean over the given number of independent random masks, every reconstruction used."""
    from U2ADLib import montecarlo
    from U2ADLib.masking import masked_count

    def independent(n, k, ratio, _):
        masked = np.ones((passes, n), bool)
        for row in masked:
            row[rng.permutation(n)[: n - masked_count(n, ratio)]] = False
        return masked

    original, montecarlo.balanced_passes = montecarlo.balanced_passes, independent
    try:
        return monte_carlo(network, images, cords).mean[0]
    finally:
        montecarlo.balanced_passes = original


def test_memory_running_out_halves_the_batch_and_says_so(slices, monkeypatch):
    images, cords = slices
    network, said, limit = make_network(), [], 10
    forward = EdgeMAE.forward

    def hungry(self, patches, *rest):
        if len(patches) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, patches, *rest)

    expected = monte_carlo(network, images, cords)
    monkeypatch.setattr(EdgeMAE, "forward", hungry)
    result = monte_carlo(network, images, cords, rows_per_batch=32, say=said.append)
    np.testing.assert_allclose(result.mean, expected.mean, atol=1e-5)
    assert [message.split("with ")[1].split()[0] for message in said] == ["16", "8"]


def test_other_errors_are_not_retried(slices, monkeypatch):
    def broken(self, *arguments):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(EdgeMAE, "forward", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        monte_carlo(make_network(), *slices)


def test_progress_can_cancel(slices):
    def stop(stage, done, total):
        if done:
            raise Cancelled

    with pytest.raises(Cancelled):
        monte_carlo(make_network(), *slices, rows_per_batch=4, progress=stop)


def test_a_slice_without_cord_is_refused(slices):
    with pytest.raises(InputError, match="without any cord"):
        monte_carlo(make_network(), slices[0], np.zeros_like(slices[1]))
