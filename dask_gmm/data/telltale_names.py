"""Names by which what is taken for a feature is none: an axis of places, an identifier.

Both make a mixture of the wrong numbers without an error anywhere. A name is all that is looked at,
and few names say it beyond doubt; whoever means what they have asked for says it by name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dask_gmm.data.concatenated_source import is_many

if TYPE_CHECKING:
    from dask_gmm.data.base import Source

__all__ = ["doubtful_features"]

# Axes of a map. Time is none of them: what happens at a place over time may be its features.
_PLACES = frozenset(
    (
        *("x", "lon", "longitude", "rlon", "nav_lon", "easting", "projection_x_coordinate"),
        *("y", "lat", "latitude", "rlat", "nav_lat", "northing", "projection_y_coordinate"),
        *("row", "col", "column", "xc", "yc", "ni", "nj", "i", "j"),
    )
)
_IDENTIFIER = re.compile(
    r"(?:id|index|idx|uuid|guid|objid|rowid|row_number|__index_level_\d+__|unnamed: 0"
    r"|.+[_ ]id|.+[a-z]I[dD])"
)
_MOST_NAMED = 5


def doubtful_features(
    source: Source, feature_axis: int | str, *, chosen: bool = False
) -> str | None:
    """Say what names say against a source's features; None where they say nothing.

    Parameters
    ----------
    source : Source
    feature_axis : int or str
        As it was asked for; whatever is not the default is meant.
    chosen : bool
        Whether the features were named one by one, and so are meant too.
    """
    if feature_axis == -1:  # nobody has said which
        one = source.parts[0] if is_many(source) else source
        found = _place(one)
        if found is not None:
            return found
    return None if chosen or source.feature_names is None else _identifiers(source)


def _place(source: Source) -> str | None:
    dims = source.axis_names
    if dims is None or len(dims) <= 2 or dims[source.feature_axis].lower() not in _PLACES:
        return None
    name = dims[source.feature_axis]
    others = [dim for dim in dims if dim.lower() not in {*_PLACES, "time"}]
    meant = f"feature_axis={others[0]!r}" if others else "the name of another, feature_axis=NAME,"
    return (
        f"The {source.n_features:,} values along {name!r} were taken for features, as that is the "
        f"last dimension of {source.name} ({', '.join(dims)}), but its name is that of places on a "
        f"map. Give {meant} if the features lie there, or feature_axis={name!r} if they do lie "
        f"here."
    )


def _identifiers(source: Source) -> str | None:
    names = [str(name) for name in source.feature_names or ()]
    found = [n for n in names if _IDENTIFIER.fullmatch(n) or _IDENTIFIER.fullmatch(n.lower())]
    if not found or len(found) == len(names):
        return None
    named = ", ".join(repr(name) for name in found[:_MOST_NAMED])
    rest = f" and {len(found) - _MOST_NAMED:,} more" if len(found) > _MOST_NAMED else ""
    return (
        f"{named}{rest} of {source.name}: taken for features, but named as what tells rows apart, "
        f"of which a mixture learns nothing. Name those that are features, by columns= of a table "
        f"or a frame, by features= of a group or Dataset; or all of them, if so it is meant."
    )
