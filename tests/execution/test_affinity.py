"""Who holds what: units of any size find the worker that has pinned most of them."""

from __future__ import annotations

from dask_gmm.execution import plan_pass
from dask_gmm.execution.cluster.affinity import Affinity
from dask_gmm.execution.cluster.graph import anchors, pass_graph, tree_shape

from .fakes import SumJob, even_fake


def test_units_go_to_the_worker_that_holds_most_of_them() -> None:
    source = even_fake(16)
    affinity = Affinity(16)
    plan = plan_pass(source, n_threads=1, unit_level=1)
    assert affinity.preferred(plan, {"a", "b"}) == {}
    affinity.record(plan, [(0, "a"), (1, "b"), (2, "a")])
    affinity.record(plan, [(7, "b")])
    assert affinity.preferred(plan, {"a", "b"}) == {0: "a", 1: "b", 2: "a", 7: "b"}
    assert affinity.preferred(plan, {"b"}) == {1: "b", 7: "b"}, "a is gone"
    larger = plan_pass(source, n_threads=1, unit_level=3)
    assert affinity.preferred(larger, {"a", "b"}) == {0: "a", 1: "b"}
    smaller = plan_pass(source, n_threads=1, unit_level=0)
    found = affinity.preferred(smaller, {"a", "b"})
    assert found == {0: "a", 1: "a", 2: "b", 3: "b", 4: "a", 5: "a", 14: "b", 15: "b"}
    affinity.record(plan, [(0, "b")])
    assert affinity.preferred(plan, {"a", "b"})[0] == "b"


def test_a_preference_is_an_annotation_of_those_tasks_alone() -> None:
    plan = plan_pass(even_fake(8), n_threads=1, unit_level=1)
    shape = tree_shape(plan, SumJob())
    built = pass_graph(plan, shape, b"", range(4), preferred={1: "tcp://a:1", 2: "tcp://b:2"})
    layers = built.submission().layers
    placed = {key[2]: w for w, layer in layers.items() if w for key in layer}
    assert placed == {1: "tcp://a:1", 2: "tcp://b:2"}
    for worker, layer in layers.items():
        expected = {"workers": [worker], "allow_other_workers": True} if worker else None
        assert layer.annotations == expected
    assert {key for layer in layers.values() for key in layer} == set(built.tasks)


def test_passes_share_their_groups_but_no_key() -> None:
    plan = plan_pass(even_fake(8), n_threads=1, unit_level=1)
    shape = tree_shape(plan, SumJob())
    first, second = (pass_graph(plan, shape, b"", range(4), group="g") for _ in range(2))
    assert not set(first.tasks) & set(second.tasks)
    groups = {key[0] for key in first.tasks}
    assert groups == {key[0] for key in second.tasks} == {"gmm-run-g", "gmm-unit-g"}
    kept = anchors(groups)
    assert {key[0] for key in kept} == groups
    assert not set(kept) & set(first.tasks)
