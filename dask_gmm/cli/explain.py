"""Any exception as the one sentence that its user needs."""

from __future__ import annotations

import errno
import re
import sys

from dask_gmm.errors import DaskGMMError

__all__ = ["by_options", "explain"]

# The library speaks of its own arguments; whoever types commands knows the options.
_OPTIONS = (
    ("pass array=NAME", "pass --array NAME"),
    (", or features=[NAME, NAME] for several", ", or --features NAME,NAME for several"),
    ("leave array= (or features=) out", "leave --array (or --features) out"),
    ("pass overwrite=True (--overwrite)", "pass --overwrite"),
    ("(overwrite=True, --overwrite)", "(--overwrite)"),
    ('resume="never" (--no-resume)', "--no-resume"),
    ('resume="must" (--resume)', "--resume"),
    ('with resume="auto"', "without --no-resume"),
    ("missing_chunks='fill'", "--missing-chunks fill"),
    ("missing='drop'", "--missing drop"),
    ("missing='marginalize'", "--missing marginalize"),
    ("sample_weight='equal-per-array'", "--equal-per-array"),
    ("pass a list or dict of arrays, or name many by arrays='*'", "name many by --arrays '*'"),
    ("sample_weight=", "--weights "),
    ("where=", "--where "),
    ("missing_chunks={'where': 'fill'}", "--missing-chunks where=fill"),
    ("missing_chunks={'sample_weight': 'fill'}", "--missing-chunks weights=fill"),
    ("columns=['a', 'b'] (--columns a,b)", "--columns a,b"),
    ("by features= of", "by --features of"),
    ("by columns= of", "by --columns of"),
    ("columns=", "--columns "),
    ("keep=", "--keep "),
    ("feature_axis=", "--feature-axis "),
    ("feature_axis", "--feature-axis"),
    ("covariance_type='diag'", "--covariance diag"),
    ("covariance_type='full'", "--covariance full"),
    ("acceleration out, or give None,", "--acceleration out, or give none,"),
    ("init_params='kmeans'", "--init-params kmeans"),
    ("on_collapse='reseed'", "--on-collapse reseed"),
    ("increase reg_covar", "increase --reg-covar"),
    ("larger init_size", "larger sample"),
    ("covariance_type 'full'", "--covariance full"),
    ("say skip_signature=true", "say --storage-option skip_signature=true"),
)

_BUG = "This is a defect of dask-gmm: run again with --debug and report the traceback."


def explain(error: BaseException) -> str:
    """Return what happened and what to do about it, on one line."""
    return by_options(_sentence(error))


def by_options(text: str) -> str:
    """Return what the library says on one line, with its arguments as options."""
    text = " ".join(text.split())
    for argument, option in _OPTIONS:
        text = text.replace(argument, option)
    text = re.sub(r"\b(arrays?)=", r"--\1 ", text)
    text = re.sub(r"\bfeature_transform(?:='(\w+)')?", _transform_option, text)
    text = re.sub(r"(--[a-z-]+) (?=[,:;.)])", r"\1", text)  # of an option without a value
    return re.sub(r"features=\[([^]]*)\]", _features_option, text)


def _transform_option(match: re.Match[str]) -> str:
    return "--transform" if match[1] is None else f"--transform {match[1]}"


def _features_option(match: re.Match[str]) -> str:
    names = (name.strip().strip("'") for name in match[1].split(","))
    return f"--features {','.join(names)}"


def _sentence(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, DaskGMMError):
        return text
    # Not worth its import: who raised it has imported it.
    scikit_learn = sys.modules.get("sklearn.utils._param_validation")
    if scikit_learn is not None and isinstance(error, scikit_learn.InvalidParameterError):
        return text
    if isinstance(error, MemoryError):
        return (
            "This process ran out of memory. Use smaller chunks or fewer threads "
            "(--threads-per-worker), or a cluster; dask-gmm plan shows what a pass needs."
        )
    if isinstance(error, OSError) and (known := _system(error)):
        return known
    origin = type(error).__module__.partition(".")[0]
    if origin == "distributed":
        return (
            f"The Dask cluster failed: {type(error).__name__}: {text or 'no details'}. Check its "
            f"workers, or write its log with --log-file."
        )
    if isinstance(error, OSError) and text:
        return f"The operating system refused: {text}."
    first = text.splitlines()[0] if text else "no message"
    return f"Unexpected {type(error).__name__}: {first.rstrip('.')}. {_BUG}"


def _system(error: OSError) -> str | None:
    place = error.filename if isinstance(error.filename, str) else None
    at = f" at {place}" if place else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"The disk is full{at}: free some space, or choose another place."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"No permission to write or read{at}: choose another place, or its owner."
        case errno.ENOENT if place:
            return f"There is nothing at {place}."
        case errno.EMFILE:
            return "Too many open files: raise the limit with ulimit -n, or use fewer threads."
    return None
