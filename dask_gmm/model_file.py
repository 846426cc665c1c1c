"""A fitted mixture as a small Zarr group: JSON attributes and plain arrays, nothing that runs.

The root's attributes say what it is, which version wrote it, the fit's settings, and in which
subgroup the arrays `weights`, `means`, `covariances`, `precisions_cholesky` and `lower_bounds` lie,
as float64; of a mixture of scaled rows also what they are scaled by, `scaling` and arrays whose
names begin with that; of a variational posterior also its `priors`, as arrays whose names begin
with `prior_`; and where rows that come later can be added also `kept`, the statistics of those it
was fitted to, as numbers and arrays of such names. A save writes a new subgroup first and the
root's one metadata object last, which is atomic on every store: whoever reads meanwhile, or after a
save that broke off, finds the old model whole. On a disk each of the two is there to stay before
the next step, so that a machine which goes down takes no model along. A digest over all of it tells
a changed or damaged file; only `written_by` and `record`, how the fit went, have no part in it, as
equal fits have equal digests. The record has a digest of its own: a mixture whose record is damaged
is whole, and loaded without. So have the statistics, which older versions do not read.
"""

from __future__ import annotations

import hashlib
import json
import uuid
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dask_gmm.data.atomic_replace import holds_only_rests, settle, sweep
from dask_gmm.data.bounded_codecs import bounded
from dask_gmm.data.checked_store import first_line
from dask_gmm.data.output_array import put_document
from dask_gmm.data.rereading import reread
from dask_gmm.data.sink import not_written
from dask_gmm.data.stored_array import metadata_document
from dask_gmm.data.stores import probe_store, store_spec, writable_store
from dask_gmm.data.urls import check_options, crosses_network, join_url, normalize_url, scheme_of
from dask_gmm.data.zarr_sync import sync
from dask_gmm.errors import (
    DaskGMMError,
    ModelFileError,
    ModelFileWarning,
    OutputExistsError,
    StoreError,
    StoreNotFoundError,
)
from dask_gmm.execution.machine import machine_fingerprint
from dask_gmm.fitting.stored_kept import ARRAYS as KEPT_ARRAYS
from dask_gmm.fitting.stored_kept import arrays_of as kept_arrays
from dask_gmm.fitting.stored_kept import described as described_kept
from dask_gmm.fitting.stored_kept import kept_from
from dask_gmm.fitting.stored_record import described as described_record
from dask_gmm.fitting.stored_record import history_from, record_from
from dask_gmm.interrupts import held
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kinds import of_kind
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array
from dask_gmm.scaling.stored import arrays_of, described, scaling_from

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from dask_gmm.fitting.events import PassFinished
    from dask_gmm.fitting.record import FitRecord
    from dask_gmm.mixture.kept import KeptStatistics
    from dask_gmm.scaling import Scaling

__all__ = ["ModelFile", "check_model_output", "fingerprint", "load_model", "save_model"]

FORMAT = "dask-gmm-model"
FORMAT_VERSION = 1
# Of mixtures of scaled rows: who does not know of scaling must not apply them to rows as they are.
SCALED_VERSION = 2
# Of mixtures that are no Gaussian ones, scaled rows or not.
OTHER_KINDS_VERSION = 3
_BROKEN_OFF = "the beginning of a model"
_VERSIONS = (FORMAT_VERSION, SCALED_VERSION, OTHER_KINDS_VERSION)
_ARRAYS = ("weights", "means", "covariances", "precisions_cholesky", "lower_bounds")
# Codecs that turn bytes into bytes, or bytes into numbers. Zarr knows others that unpickle.
_CODECS = frozenset({"bytes", "zstd", "blosc", "gzip", "crc32c"})


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds.

    Attributes
    ----------
    parameters : MixtureParameters
    lower_bounds : (n,) float64
        Mean log-likelihood per row before each M-step.
    settings : dict
        The estimator's constructor arguments, as JSON values.
    fit : dict
        How the fit went: rows, passes, outcome, ...; JSON values.
    written_by : dict
        Packages and machine, for telling why two results differ in their last bits.
    scaling : Scaling or None
        What rows are scaled by before the mixture sees them.
    record : FitRecord or None
        Where the fit came from and what it took.
    history : tuple of PassFinished
        One record a pass.
    priors : mapping of str to float64
        Of a variational posterior; numbers are of shape ().
    kept : KeptStatistics or None
        Of the rows that were fitted, for those that come later.
    """

    parameters: MixtureParameters
    lower_bounds: NDArray[np.float64]
    settings: Mapping[str, Any]
    fit: Mapping[str, Any]
    written_by: Mapping[str, str]
    scaling: Scaling | None = None
    record: FitRecord | None = None
    history: tuple[PassFinished, ...] = ()
    priors: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    kept: KeptStatistics | None = None

    @property
    def n_parameters(self) -> int:
        """Free parameters: those of the mixture but what its fit left as it was."""
        return self.parameters.n_parameters - int(self.fit.get("n_frozen", 0))

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the mixture, its settings and how the fit ended.

        So over everything but `written_by`, `record`, `history` and `kept`.
        """
        texts = json.dumps([dict(self.settings), dict(self.fit)], sort_keys=True)
        whole = hashlib.sha256(f"{self.parameters.fingerprint}:{texts}".encode())
        whole.update(np.asarray(self.lower_bounds, dtype=np.float64).tobytes())
        if self.scaling is not None:
            whole.update(self.scaling.fingerprint.encode())
        for name, prior in sorted(self.priors.items()):
            whole.update(f"{name}:{prior.shape}".encode() + prior.tobytes())
        return whole.hexdigest()


def fingerprint() -> dict[str, str]:
    """Return the packages and the machine that a result's last bits depend on."""
    packages = ("dask-gmm", "dask", "zarr", "scikit-learn")
    found = {name: version(name) for name in packages}
    return {"machine": machine_fingerprint(), **found}


def check_model_output(
    url: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Refuse an output place that already holds something, before any work is done.

    Only a model file may be overwritten, never anything else that happens to lie there. What a
    first save has left that broke off is no model, and in nobody's way.

    Raises
    ------
    OutputExistsError
    """
    _check_output(url, overwrite, storage_options)


def _check_output(
    url: str | os.PathLike[str], overwrite: bool, storage_options: Mapping[str, Any] | None
) -> bool:
    """As `check_model_output`; return whether a model is there."""
    found = _what_is_there(url, storage_options)
    name = normalize_url(url)
    if found not in (None, FORMAT, _BROKEN_OFF):
        raise OutputExistsError(
            f"{name} exists and is no model file but {found}; it will not be overwritten. Choose "
            f"another place for the model."
        )
    if found == FORMAT and not overwrite:
        raise OutputExistsError(
            f"{name} already holds a model; pass overwrite=True (--overwrite) or choose another "
            f"place."
        )
    return found == FORMAT


@held()
def save_model(
    url: str | os.PathLike[str],
    model: ModelFile,
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file; the one it replaces stays whole until the new one is.

    Raises
    ------
    OutputExistsError
        Something is there already, and it is no model or `overwrite` was not asked for.
    StoreError
        The store cannot be written.
    """
    replaces = _check_output(url, overwrite, storage_options)
    place = normalize_url(url)
    with _writing(place, " The model that was there is as it was." if replaces else ""):
        store = writable_store(url, storage_options)
        number = FORMAT_VERSION if model.scaling is None else SCALED_VERSION
        if model.parameters.more:
            number = OTHER_KINDS_VERSION
        marker: dict[str, Any] = {"format": FORMAT, "format_version": number}
        if sync(store.is_empty("")):
            root = zarr.create_group(store=store, zarr_format=3, attributes=dict(marker))
        else:
            root = zarr.open_group(store=store, mode="r+", zarr_format=3)
        previous = root.attrs.get("arrays")
        name = f"arrays-{uuid.uuid4().hex[:12]}"
        attributes = {
            **marker,
            "arrays": name,
            "covariance_type": model.parameters.family.name,
            "digest": model.digest,
            "settings": dict(model.settings),
            "fit": dict(model.fit),
            "written_by": dict(model.written_by),
        }
        if model.record is not None or model.history:
            attributes["record"] = described_record(model.record, model.history)
        if model.scaling is not None:
            attributes["scaling"] = described(model.scaling)
        if model.parameters.more:
            more = list(model.parameters.more)
            attributes["parameters"] = {"kind": model.parameters.kind, "arrays": more}
        if model.priors:
            attributes["priors"] = sorted(model.priors)
        if model.kept is not None:
            attributes["kept"] = described_kept(model.kept)
        try:
            _write_arrays(root.create_group(name), model)
            if scheme_of(place) == "file":
                settle(join_url(place, name))
        except BaseException:
            with suppress(Exception):  # where a disk is full, this makes room
                sync(store.delete_dir(name))
            raise
        root_document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        put_document(place, check_options(storage_options), root_document)
        if isinstance(previous, str):
            # The new model is whole: what is left of the old one, or of a save that broke off, is
            # in nobody's way.
            with suppress(Exception):
                del root[previous]


@held()
def load_model(
    url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> ModelFile:
    """Read a model file; nothing in it is executed.

    Raises
    ------
    StoreNotFoundError
        Nothing is there.
    ModelFileError
        What is there is no model, a newer one, an incomplete one, or one that is not as it was
        saved.
    """
    read = partial(_load, url, storage_options)
    return reread(read, far=crosses_network(normalize_url(url)), damage=ModelFileError)


def _load(url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None) -> ModelFile:
    name = normalize_url(url)
    group = _open_group(url, storage_options)
    if group is None:
        raise StoreNotFoundError(
            f"No model at {name}: GaussianMixture.save or dask-gmm fit --output puts one there."
        )
    attributes = dict(group.attrs)
    if attributes.get("format") != FORMAT:
        raise ModelFileError(
            f"{name} is a Zarr group but no model file: its attributes do not say "
            f"format={FORMAT!r}."
        )
    if attributes.get("format_version") not in _VERSIONS:
        raise ModelFileError(
            f"{name} has model format {attributes.get('format_version')!r}; this version of "
            f"dask-gmm reads {_VERSIONS[0]} to {_VERSIONS[-1]}. Upgrade dask-gmm."
        )
    if "digest" not in attributes:
        raise ModelFileError(f"A save to {name} broke off before its end: save the model again.")
    try:
        model = _read_model(group, attributes)
    except StoreError:
        raise
    except Exception as error:  # whatever a damaged document makes Zarr or NumPy say
        raise ModelFileError(
            f"The model at {name} is incomplete or damaged ({first_line(error)}): restore it or "
            f"fit again."
        ) from error
    if model.digest != attributes["digest"]:
        raise ModelFileError(
            f"The model at {name} is not as it was saved: the file was changed or damaged. "
            f"Restore it or fit again."
        )
    return _with_record(_with_kept(model, attributes, group, name), attributes.get("record"), name)


def _with_kept(
    model: ModelFile, attributes: Mapping[str, Any], group: zarr.Group, name: str
) -> ModelFile:
    """The model with the statistics that it has kept; older files have none."""
    about = attributes.get("kept")
    if about is None:
        return model
    try:
        folder = group[str(attributes["arrays"])]
        if not isinstance(folder, zarr.Group):
            raise TypeError("its arrays are no group")
        arrays = {part: _read(folder, f"kept_{part}") for part in KEPT_ARRAYS}
        kept = kept_from(about, arrays, model.parameters)
    except StoreError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a damaged array makes Zarr or NumPy say
        warnings.warn(
            f"The model at {name} is whole, but not the statistics that were kept for rows which "
            f"come later ({first_line(error)}): update and partial_fit cannot go on from it. "
            f"Restore the file, or fit again with warm_start=True.",
            ModelFileWarning,
            stacklevel=2,
        )
        return model
    return replace(model, kept=kept)


def _with_record(model: ModelFile, stored: Any, name: str) -> ModelFile:
    """The model with its record; older files have none."""
    if stored is None:
        return model
    try:
        return replace(model, record=record_from(stored), history=history_from(stored))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        warnings.warn(
            f"The model at {name} is whole, but not what it says of how it was fitted "
            f"({first_line(error)}): record_ is None and history_ is empty. Save the model again "
            f"to be told no more.",
            ModelFileWarning,
            stacklevel=2,
        )
        return model


def _write_arrays(group: zarr.Group, model: ModelFile) -> None:
    parameters = model.parameters
    values = {
        "weights": parameters.weights,
        "means": parameters.means,
        "covariances": parameters.covariances,
        "precisions_cholesky": parameters.precisions_cholesky,
        "lower_bounds": np.asarray(model.lower_bounds, dtype=np.float64),
    }
    values |= {f"more_{name}": array for name, array in parameters.more.items()}
    if model.scaling is not None:
        values |= {f"scaling_{name}": array for name, array in arrays_of(model.scaling).items()}
    values |= {f"prior_{name}": array for name, array in model.priors.items()}
    if model.kept is not None:
        values |= {f"kept_{part}": array for part, array in kept_arrays(model.kept).items()}
    for name in values:
        # One chunk, always written, even where it is all zeros: a missing chunk is a damaged file.
        value = values[name]
        array = group.create_array(
            name,
            shape=value.shape,
            chunks=tuple(max(1, n) for n in value.shape),
            dtype="float64",
            config={"write_empty_chunks": True},
        )
        array[...] = value


def _read_model(group: zarr.Group, attributes: Mapping[str, Any]) -> ModelFile:
    folder = group[str(attributes["arrays"])]
    if not isinstance(folder, zarr.Group):
        raise TypeError("its arrays are no group")
    arrays = {key: frozen_array(_read(folder, key)) for key in _ARRAYS}
    settings, fit, written_by = (dict(attributes[k]) for k in ("settings", "fit", "written_by"))
    parameters = MixtureParameters(
        covariance_family(str(attributes["covariance_type"])),
        arrays["weights"],
        arrays["means"],
        arrays["covariances"],
        arrays["precisions_cholesky"],
    )
    if attributes["format_version"] == OTHER_KINDS_VERSION:
        about = attributes["parameters"]
        more = {name: _read(folder, f"more_{name}") for name in about["arrays"]}
        parameters = of_kind(str(about["kind"]), parameters, more)
    scaling = None
    if "scaling" in attributes:
        about = attributes["scaling"]
        stored = {name: frozen_array(_read(folder, f"scaling_{name}")) for name in about["arrays"]}
        scaling = scaling_from(about, stored)
    bounds = arrays["lower_bounds"]
    priors = {k: frozen_array(_read(folder, f"prior_{k}")) for k in attributes.get("priors", ())}
    return ModelFile(parameters, bounds, settings, fit, written_by, scaling, priors=priors)


def _read(group: zarr.Group, key: str) -> NDArray[np.float64]:
    array = group[key]
    if not isinstance(array, zarr.Array) or array.metadata.zarr_format != 3:
        raise TypeError(f"{key} is no Zarr v3 array")
    codecs = {str(codec.to_dict()["name"]) for codec in array.metadata.codecs}
    if array.dtype != np.float64 or not codecs <= _CODECS:
        raise TypeError(f"{key} is stored as {array.dtype} with {', '.join(sorted(codecs))}")
    document: Any = bounded(metadata_document(array))
    stopping = zarr.Array(zarr.AsyncArray(document, array.store_path))
    return np.asarray(stopping[...], dtype=np.float64)


@held()
def _open_group(
    url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None
) -> zarr.Group | None:
    """Return the Zarr v3 group at a place; None where there is nothing (of that kind)."""
    store = probe_store(store_spec(url, storage_options))
    try:
        found = zarr.open(store=store, mode="r", zarr_format=3)
    except FileNotFoundError:
        if store.denied is not None:  # a bucket that may not be listed hides what it has not
            raise store.denied from None
        return None
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # a directory that is not there
            return None
        raise
    except ValueError as error:  # metadata that is no JSON, or no metadata
        raise ModelFileError(
            f"{normalize_url(url)} has metadata that cannot be read ({first_line(error)}): "
            f"it is no model file, or a damaged one."
        ) from error
    if not isinstance(found, zarr.Group):
        raise ModelFileError(
            f"{normalize_url(url)} is a Zarr array, not a model file; is it the data?"
        )
    return found


def _what_is_there(
    url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None
) -> str | None:
    name = normalize_url(url)
    if scheme_of(name) == "file" and Path(name).is_file():
        return "a file"
    try:
        group = _open_group(url, storage_options)
    except ModelFileError:
        return "another Zarr array or damaged metadata"
    except StoreNotFoundError:
        return None
    if group is not None and group.attrs.get("format") == FORMAT:
        return FORMAT if "digest" in group.attrs else _BROKEN_OFF
    if group is not None:
        return "another Zarr group"
    with _writing(name):
        # A first save that is killed at once leaves no more than that.
        if scheme_of(name) == "file" and Path(name).is_dir() and holds_only_rests(name):
            sweep(name)
        empty = sync(writable_store(url, storage_options).is_empty(""))
    return None if empty else "something else"


@contextmanager
def _writing(name: str, more: str = "") -> Iterator[None]:
    """Turn what a store says when it cannot be written into one sentence, and say what holds."""
    try:
        yield
    except DaskGMMError:
        raise
    except Exception as error:  # every kind of store has errors of its own
        raise not_written(error, name, more.strip()) from error
