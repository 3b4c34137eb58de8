"""K-means against scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from sklearn.cluster import KMeans

from holdfast._errors import BadInput
from holdfast.items import kmeans as room
from holdfast.items.kmeans import kmeans, means, nearest
from tests.items.vectors import families


def test_from_the_same_start_it_ends_where_scikit_learn_does() -> None:
    points = families(400)
    start = points[:12]
    ours = kmeans(points, 12, centres=start, tolerance=0.0)
    theirs = KMeans(12, init=start.numpy(), n_init=1, tol=0.0).fit(points.numpy())
    assert torch.equal(ours.labels, torch.from_numpy(theirs.labels_).long())
    torch.testing.assert_close(ours.centres, torch.from_numpy(theirs.cluster_centers_))
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_from_its_own_start_it_is_as_good_as_scikit_learn(offset: float) -> None:
    points = families(8000, number=1000) + offset
    ours = [kmeans(points, 40, seed=seed).inertia for seed in range(3)]
    theirs = [KMeans(40, n_init=1, random_state=seed).fit(points.numpy()).inertia_ for seed in range(3)]
    assert sum(ours) <= 1.01 * sum(theirs)


def test_labels_are_the_nearest_centres_and_inertia_their_distance() -> None:
    points = families(200)
    found = kmeans(points, 7)
    distances = torch.cdist(points.double(), found.centres.double()).square()
    assert torch.equal(found.labels, distances.argmin(1))
    assert found.inertia == pytest.approx(float(distances.min(1).values.sum()), rel=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = families(100)
    whole = nearest(points, points[:9])
    monkeypatch.setattr(room, "BLOCK", 7)
    assert torch.equal(nearest(points, points[:9])[0], whole[0])


def test_the_seed_decides_and_no_other_random_state_is_touched() -> None:
    points = families(3000)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first, again, other = (kmeans(points, 8, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.centres, again.centres) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.centres, other.centres)


def test_an_empty_cluster_is_given_the_farthest_point() -> None:
    points = torch.tensor([[0.0], [0.1], [10.0], [10.1], [50.0]])
    found = kmeans(points, 3, centres=torch.tensor([[0.0], [10.0], [1000.0]]))
    assert found.labels.tolist() == [0, 0, 1, 1, 2]


def test_fewer_distinct_points_than_clusters_are_each_their_own() -> None:
    points = families(3).repeat(5, 1)
    found = kmeans(points, 8)
    assert found.inertia == pytest.approx(0.0, abs=1e-4) and len(found.centres) == 8
    assert len(found.labels.unique()) == 3 and torch.equal(found.labels[:3], found.labels[12:])
    torch.testing.assert_close(found.centres[3:], points.mean(0).expand(5, -1))


def test_equal_points_are_one_cluster() -> None:
    assert kmeans(torch.ones(20, 4), 3).labels.unique().numel() == 1


def test_means_of_clusters() -> None:
    found, sizes = means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3)
    assert found.flatten().tolist() == [2.0, 0.0, 5.0] and sizes.tolist() == [2, 0, 1]


def test_progress_is_told() -> None:
    lines: list[str] = []
    kmeans(torch.rand(2000, 4, generator=torch.Generator().manual_seed(0)), 40, tolerance=0.0, progress=lines.append)
    assert lines and "iteration 10" in lines[0]


@pytest.mark.parametrize(("points", "clusters"), [(torch.rand(4), 2), (torch.rand(0, 3), 2), (torch.rand(4, 3), 0)])
def test_what_cannot_be_clustered_is_refused(points: torch.Tensor, clusters: int) -> None:
    with pytest.raises(BadInput, match="K-means takes points"):
        kmeans(points, clusters)


def test_starting_centres_of_another_shape_are_refused() -> None:
    with pytest.raises(BadInput, match="Starting centres"):
        kmeans(torch.rand(9, 3), 2, centres=torch.rand(3, 3))
