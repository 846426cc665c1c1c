"""What a mixture says of each row, written to an array, a group or a table as it is computed."""

from __future__ import annotations

import os
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from sklearn.utils.validation import check_is_fitted

from dask_gmm.data.concatenated_source import is_many
from dask_gmm.data.coordinates import OutputPlace
from dask_gmm.data.output_begin import begin_output, output_chunks
from dask_gmm.data.output_group import GroupLayout, begin_group
from dask_gmm.data.provenance import IMPUTED_ROWS, check_unchanged, known_by, recipe_of
from dask_gmm.data.tables.arrow import has_parquet_suffix
from dask_gmm.data.tables.output import begin_table, kept_columns, layout_of
from dask_gmm.data.tables.writer import LABEL, posterior_names
from dask_gmm.data.taking_part import with_missing
from dask_gmm.errors import InputError
from dask_gmm.estimators.applied import RESULTS, AppliedMixture, Watched, for_each_row
from dask_gmm.estimators.inputs import open_input
from dask_gmm.estimators.of_many import write_group
from dask_gmm.estimators.using import checked_top_k, threshold_from
from dask_gmm.estimators.written_fields import write_fields
from dask_gmm.execution import choose_backend
from dask_gmm.fitting.anomalies import ScoredAnomalies
from dask_gmm.fitting.events import OutputResumed
from dask_gmm.fitting.imputing import Imputed
from dask_gmm.fitting.prediction import (
    Labels,
    Posteriors,
    RowFunction,
    WriteJob,
)
from dask_gmm.fitting.ranking import TopComponents
from dask_gmm.fitting.regression import Regressed
from dask_gmm.interrupts import allowed, held
from dask_gmm.progress.observers import observed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import dask.array as da
    import xarray as xr
    import zarr
    from numpy.typing import DTypeLike

    from dask_gmm.data.output_fields import FieldsOutput
    from dask_gmm.data.output_group import GroupOutput
    from dask_gmm.data.provenance import Recipe
    from dask_gmm.data.sink import Output
    from dask_gmm.data.source import Source
    from dask_gmm.data.tables.output import TableOutput
    from dask_gmm.data.tables.writer import Kept
    from dask_gmm.fitting.anomalies import AnomalyThreshold
    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.fields import FieldsFunction

    Labelled: TypeAlias = xr.DataArray | xr.Dataset
    LazyData: TypeAlias = str | os.PathLike[str] | zarr.Array[Any] | zarr.Group | da.Array

__all__ = ["WritingMixture", "check_output_dtype", "label_type"]

_DOING: dict[type[RowFunction], str] = {Imputed: "imputing", Regressed: "regressing"}


class WritingMixture(AppliedMixture):
    """A mixture that writes what it says of rows, and goes on where an earlier run ended."""

    def predict_to(
        self,
        X: Any,
        output: str | os.PathLike[str],
        *,
        where: Any = None,
        probabilities: bool = False,
        top_k: int | None = None,
        anomaly_threshold: float | AnomalyThreshold | None = None,
        dtype: DTypeLike | None = None,
        keep: Sequence[str] | None = None,
        overwrite: bool = False,
        resume: str = "auto",
        storage_options: Mapping[str, Any] | None = None,
    ) -> int:
        """Write labels, or posteriors, to a new Zarr array or table in one read of the data.

        Of xarray objects, and of variables that `features` names, into the Zarr group at `output`,
        as ``labels`` or ``posteriors``, with the coordinates of the samples: as
        ``xarray.open_zarr(output)`` shows them. The group is made if it is not there. Of many
        arrays a group of its own: ``labels/NAME`` for each, and from the same read the tables
        ``proportions`` (as by `proportions`) and ``counts``, along ``array`` and ``component``.

        The array's attribute `dask_gmm` says whether it is `complete`, which is written last; `fit`
        and its kin refuse one that is not. On a disk it appears at its path only then, and what was
        there before is as it was until then. Object stores cannot rename: there it is written in
        place, marked as incomplete from its first object to its last, and one that it overwrites
        is lost at once.

        A call that ended early, however it ended, leaves its finished blocks, on a disk in a hidden
        folder beside the output, and the same call goes on from them. A name that ends with
        ``.parquet`` makes a table, whose parts lie in that folder, or in an object store below a
        hidden prefix, until all are there and this process puts them together. Of two at the same
        time on a disk the second is refused; in an object store two of the same call do each other
        no harm.

        Parameters
        ----------
        X : as in `fit`
            With known chunk sizes, unless the output is a table.
        output : path or URL
            A Zarr v3 array of the samples' shape (then K with `probabilities`), chunked as the data
            and with their dimension names; or the group for it. Beside its data in a group that
            xarray wrote, xarray sees it where the group's metadata are not consolidated (or once
            they are again). Or a Parquet table of the columns kept, ``label`` and, with
            `probabilities`, ``posterior_0`` and so on: of a Parquet file one file of the same row
            groups, of a folder one of files of the same names; of other data one file, and a row
            group for each block.
        where : as in `fit`, optional
            Rows that take no part are written too: NaN for their posteriors; -1 for their label,
            or where the type has no sign its largest number; null in a table.
        probabilities : bool, default=False
            Posteriors instead of labels; in a table beside them.
        top_k : int, optional
            The labels of the k most probable components and their posteriors instead, as `top_k`
            gives them: into a group at `output`, as ``labels`` and ``posteriors`` (float32); in a
            table ``label_0``, ``posterior_0`` and so on. Where K is large they are a fraction of
            all posteriors.
        anomaly_threshold : float or AnomalyThreshold, optional
            Log-densities instead, and whether they lie below this (`anomaly_threshold` finds it):
            into a group at `output`, as ``log_density`` and ``anomaly``, or as such columns.
        dtype : numpy dtype, optional
            uint8 for labels of up to 255 components, else int32; int8 for up to 128 where `where`
            or `missing='drop'` may leave rows out, whose label is -1; float64 for posteriors.
        keep : sequence of str, optional
            Columns of the input, identifiers for instance, that a table has too. What the paths of
            a folder's files spell, ``year=2024/``, those of the output spell too.
        overwrite : bool, default=False
            Replace a complete array that is there, never anything else; of tables only those that
            this method has written.
        resume : {"auto", "must", "never"}, default="auto"
            What becomes of an output there that is not complete. "auto" goes on with one of the
            same mixture and data, and refuses any other, with the difference named; "must" also
            refuses to begin one, and has nothing to do where the same is there and complete;
            "never" deletes it and begins anew. Whether local data are the same is seen from their
            files, up to 20,000; of more, of remote and of Dask data the metadata are compared, and
            the first and the last finished block are computed again: what has changed between them
            is not seen. Rows in memory cannot be told from others, and begin anew.
        storage_options : mapping, optional
            For the output; the data have the estimator's own.

        Returns
        -------
        int
            Rows of the output, those included that were there already.

        Raises
        ------
        OutputExistsError
            Something is there that may not be replaced, or another process is writing it.
        InputError (a ValueError)
            The output is the input, or what was begun there is another one.
        IncompletePassError
            The data were changed while they were read.
        StoreError
            The output cannot be written. What was finished is kept.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> import zarr
        >>> stored = zarr.create_array("points.zarr", data=X, chunks=(2, 2), overwrite=True)
        >>> gm.predict_to("points.zarr", "labels.zarr", overwrite=True)
        6
        >>> zarr.open_array("labels.zarr")[:]
        array([1, 1, 1, 0, 0, 0], dtype=uint8)
        """
        check_is_fitted(self)
        parameters = self._parameters()
        k = parameters.n_components
        several = self._several(
            probabilities=probabilities, top_k=top_k, threshold=anomaly_threshold, dtype=dtype
        )
        source = for_each_row(open_input(self, X, where=where, reset=False))
        if several is not None:
            how = {"options": storage_options, "overwrite": overwrite, "resume": resume}
            return self._write_fields(X, source, several, output, how, keep)
        tail = (k,) if probabilities else ()
        signed = source.weights is not None or source.missing == "drop"
        smallest = label_type(k, signed=signed or parameters.leaves_rows_out)
        kind = np.dtype(dtype or (np.float64 if probabilities else smallest))
        check_output_dtype(kind, k, probabilities=probabilities)
        function: RowFunction = (Posteriors if probabilities else Labels)(
            parameters, self._kernel(), kind
        )
        if has_parquet_suffix(os.fspath(output)):
            own = (LABEL, *(posterior_names(k) if probabilities else ()))
            kept = kept_columns(source, X, keep, own)
            how = {"options": storage_options, "overwrite": overwrite, "resume": resume}
            return self._write_table(source, function, os.fspath(output), kept, how)
        if keep is not None:
            raise InputError(
                f"keep= is for tables, and {output} would be a Zarr array: give it a name that "
                f"ends with .parquet."
            )
        return self._write_to(
            X,
            source,
            function,
            "posteriors" if probabilities else "labels",
            tail,
            output,
            overwrite=overwrite,
            resume=resume,
            storage_options=storage_options,
        )

    def impute_to(
        self,
        X: Any,
        output: str | os.PathLike[str],
        *,
        draw: bool = False,
        overwrite: bool = False,
        resume: str = "auto",
        storage_options: Mapping[str, Any] | None = None,
    ) -> int:
        """Write the rows, gaps filled as by `impute`, to a new Zarr array, in one read.

        Of xarray objects, and of variables that `features` names, into the Zarr group at `output`,
        as ``imputed``, with the coordinates of the samples and of the features.

        Parameters
        ----------
        X : as in `fit`, with known chunk sizes
        output : path or URL
            A Zarr v3 array of the samples' shape and then the features, chunked as the data and
            with their dimension names; or the group for it.
        draw : as in `impute`
        overwrite, resume, storage_options : as in `predict_to`

        Returns
        -------
        int
            Rows of the output, those included that were there already.

        Raises
        ------
        OutputExistsError, InputError, IncompletePassError, StoreError
            As by `predict_to`.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> import zarr
        >>> X[0, 1] = np.nan
        >>> stored = zarr.create_array("gappy.zarr", data=X, chunks=(2, 2), overwrite=True)
        >>> gm.impute_to("gappy.zarr", "filled.zarr", overwrite=True)
        6
        >>> zarr.open_array("filled.zarr")[0].round(3)
        array([1., 2.])
        """
        check_is_fitted(self)
        if has_parquet_suffix(os.fspath(output)):
            raise InputError(
                f"Imputed rows are written as a Zarr array, and {output} has the name of a table: "
                f"give it one that does not end with .parquet."
            )
        source = with_missing(open_input(self, X, reset=False), "error")
        return self._write_to(
            X,
            source,
            self._imputed(source, draw=draw),
            IMPUTED_ROWS,
            (source.n_features,),
            output,
            overwrite=overwrite,
            resume=resume,
            storage_options=storage_options,
        )

    def _write_to(
        self,
        X: Any,
        source: Source,
        function: RowFunction,
        values: str,
        tail: tuple[int, ...],
        output: str | os.PathLike[str],
        *,
        overwrite: bool,
        resume: str,
        storage_options: Mapping[str, Any] | None,
    ) -> int:
        """Write what a function says of each row; return how many rows there are."""
        kind = np.dtype(function.dtype)
        how: dict[str, Any] = {
            "options": storage_options,
            "overwrite": overwrite,
            "resume": resume,
        }
        if is_many(source):
            if isinstance(function, Imputed):
                raise InputError(
                    f"{source.name} are many, and imputed rows are written of one: call impute_to "
                    f"for each."
                )
            k = function.parameters.n_components
            lay_out = GroupLayout.of(source, values, tail, kind, k)
            recipe = self._recipe(source, function, values, lay_out.described())
            url = os.fspath(output)
            with (
                held(),
                begin_group(url, lay_out, recipe=recipe, source=source, **how) as begun,
                allowed(),
            ):
                backend = choose_backend(source)
                with observed(self._observers(), "labelling", source, backend) as observers:
                    _tell_of_resumed(observers, source, begun)
                    run = partial(self._run_scaled, watched=Watched(backend, observers))
                    write_group(source, function, begun, run)
            return int(source.n_rows or 0)
        labels = not isinstance(function, Imputed)
        chunks = (*output_chunks(source, or_table=labels), *tail)  # refuses those of unknown sizes
        shape = (*(int(n) for n in source.sample_shape if n is not None), *tail)
        recipe = self._recipe(
            source, function, values, {"shape": list(shape), "chunks": list(chunks)}
        )
        per_row = kind.itemsize * prod(tail)
        url, name = os.fspath(output), RESULTS[type(function)]
        rows = isinstance(function, Imputed)
        place = OutputPlace.look(
            url, name, storage_options, X, source, overwrite=overwrite, of_rows=rows
        )
        with (
            held(),
            begin_output(
                place.url,
                shape,
                chunks,
                kind,
                storage_options,
                recipe=recipe,
                overwrite=overwrite,
                resume=resume,
                source=source,
            ) as begun,
            allowed(),
        ):
            place.begin()
            n_rows = source.max_block_rows or 0
            job = WriteJob(function, begun.writer, per_row * n_rows, n_rows)
            self._write(source, job, begun)
            place.end()
        return prod(shape[: len(source.sample_shape)])

    def _several(
        self,
        *,
        probabilities: bool,
        top_k: int | None,
        threshold: float | AnomalyThreshold | None,
        dtype: DTypeLike | None,
    ) -> FieldsFunction | None:
        """What is written where that is of several kinds; None for labels or posteriors alone.

        Raises
        ------
        InputError
            Several things are asked for at a time.
        """
        if top_k is None and threshold is None:
            return None
        asked = {
            "probabilities": probabilities,
            "top_k": top_k is not None,
            "anomaly_threshold": threshold is not None,
            "dtype": dtype is not None,
        }
        given = [name for name, there in asked.items() if there]
        if len(given) > 1:
            raise InputError(
                f"{' and '.join(given)} do not go together in predict_to: write one, and the other "
                f"to an output of its own."
            )
        p, kernel = self._parameters(), self._kernel()
        if top_k is None:
            return ScoredAnomalies(p, kernel, threshold=threshold_from(threshold))
        k = checked_top_k(top_k, p.n_components)
        labels = np.dtype(label_type(p.n_components, signed=True)).name
        return TopComponents(p, kernel, k=k, label_dtype=labels, posterior_dtype="float32")

    def _write_fields(
        self,
        X: Any,
        source: Source,
        function: FieldsFunction,
        output: str | os.PathLike[str],
        how: Mapping[str, Any],
        keep: Sequence[str] | None = None,
    ) -> int:
        """Write what a function says of each row that is of several kinds; return the rows."""

        def recipe(values: str, described: dict[str, Any]) -> Recipe:
            return self._recipe(source, function, values, described)

        return write_fields(X, source, function, output, recipe, self._write, how=how, keep=keep)

    def _write_table(
        self,
        source: Source,
        function: RowFunction,
        url: str,
        keep: Kept | None,
        how: Mapping[str, Any],
    ) -> int:
        """Write a Parquet table of labels, perhaps with posteriors, and return its rows."""
        k = function.parameters.n_components
        posteriors = isinstance(function, Posteriors)
        kind = np.dtype(function.dtype)
        labels = np.dtype(np.uint8 if k <= 255 else np.int32) if posteriors else kind
        described = {
            "shape": list(source.sample_shape),
            "blocks": source.n_blocks,
            "keep": list(keep.columns) if keep is not None else [],
        }
        values = "posteriors" if posteriors else "labels"
        recipe = self._recipe(source, function, values, described)
        with (
            held(),
            begin_table(
                url,
                layout_of(source),
                label_dtype=labels,
                recipe=recipe,
                keep=keep,
                source=source,
                **how,
            ) as begun,
            allowed(),
        ):
            # Arrow's and what is written.
            row_bytes = 2 * kind.itemsize * (k if posteriors else 1)
            size = row_bytes * (source.max_block_rows or 0)
            size += 0 if keep is None else keep.block_bytes
            self._write(source, WriteJob(function, begun.writer, size), begun)
        return begun.n_rows

    def _recipe(
        self, source: Source, function: RowFunction, values: str, described: dict[str, Any]
    ) -> Recipe:
        """What decides every byte of an output; `described` is what its layout adds."""
        described["dtype"] = np.dtype(function.dtype).name
        if isinstance(function, Imputed):
            described["seed"] = function.seed
        elif self.missing != "error":
            described["missing"] = self.missing
        if source.weights is not None:
            described["where"] = known_by(source.weights)
        return recipe_of(
            source,
            values=values,
            model=self._model_known_by(function),
            kernel=function.kernel.name,
            output=described,
        )

    def _write(
        self, source: Source, job: WriteJob, output: Output | FieldsOutput | TableOutput
    ) -> None:
        """Write what an output lacks, and call it complete."""
        doing = _DOING.get(type(job.function), "labelling")
        backend = choose_backend(source)
        with observed(self._observers(), doing, source, backend) as observers:
            _tell_of_resumed(observers, source, output)
            if output.complete:
                return
            if output.blocks is None or output.blocks:
                rows, watched = self._rows_for(source, job.function), Watched(backend, observers)
                self._run(rows, job, output.blocks, watched=watched)
            check_unchanged(output.recipe, source)
            output.finish()

    def _model_known_by(self, function: RowFunction) -> str:
        """What tells the mixture, and what rows are scaled by, from others."""
        fingerprint = function.known_by
        if self._scaling is None:
            return fingerprint
        return f"{fingerprint} of rows scaled by {self._scaling.fingerprint}"


def _tell_of_resumed(
    observers: Sequence[Observer],
    source: Source,
    output: Output | FieldsOutput | GroupOutput | TableOutput,
) -> None:
    if output.n_finished or output.complete:
        done = source.n_blocks if output.complete else output.n_finished
        for observer in observers:
            observer(OutputResumed(output.writer.url, done, source.n_blocks))


def label_type(k: int, *, signed: bool) -> type[np.integer[Any]]:
    """Smallest type for the labels of k components; with a sign where -1 is one of them.

    255 is uint8's mark for "not written", -1 that of a type with a sign.
    """
    small, most = (np.int8, 128) if signed else (np.uint8, 255)
    return small if k <= most else np.int32


def check_output_dtype(kind: np.dtype[Any], k: int, *, probabilities: bool) -> None:
    """Refuse a type that cannot hold the values, and the mark for those not written."""
    if probabilities:
        if kind.kind != "f":
            raise InputError(f"dtype={kind.name!r} cannot hold probabilities: use a float type.")
    elif kind.kind not in "iu" or np.iinfo(kind).max < (k if kind.kind == "u" else k - 1):
        raise InputError(
            f"dtype={kind.name!r} cannot hold the labels of {k} components: use an integer type "
            f"that can, such as 'int32'."
        )
