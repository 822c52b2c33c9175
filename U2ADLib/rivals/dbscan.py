"""DBSCAN on the cord's intensities (paper, B.3)."""

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import DBSCAN as Clustering

from .rules import SliceRule


@dataclass(frozen=True)
class DBSCAN(SliceRule):
    """Pixels whose intensity belongs to no cluster score the distance to the nearest one; all others 0.

    The paper leaves open what is clustered and how far a cluster is. Here: the intensities of the cord's pixels, 0–1,
    of each slice by itself (ε = 0.01 is the hundredth part of that range), and the distance to the nearest member of a
    cluster. Where no cluster is found, which happens in noisy slices and in those with little cord, the distance to
    the median is taken, where the one cluster of a healthy cord would lie.
    """

    name = "dbscan"

    epsilon: float = 0.01
    samples: int = 100  # within ε of a pixel, itself included, for it to be the core of a cluster

    def map_of(self, image, cord):
        values = image[cord].astype(float)
        noise = Clustering(eps=self.epsilon, min_samples=self.samples).fit(values[:, None]).labels_ < 0
        members = np.sort(values[~noise]) if not noise.all() else np.array([np.median(values)])
        result = np.zeros(image.shape)
        result[cord] = np.where(noise, nearest_distance(values, members), 0)
        return result


def nearest_distance(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """|v − nearest member|, (n,), for values (n,) and sorted members (m,), m > 0."""
    after = np.searchsorted(members, values)
    left, right = members[np.maximum(after - 1, 0)], members[np.minimum(after, len(members) - 1)]
    return np.minimum(np.abs(values - left), np.abs(values - right))
