"""Small states, committed one after another: none is lost, and no two writers mix theirs.

A commit is two objects of one place, a folder or a prefix of an object store:

    000000000007-5f0c9e6b1d2a4c38.state     the state, whole before anybody is told of it
    000000000007.commit                     its record: JSON, made only if it is not there

The record names the state, its length and its SHA-256, says who wrote it, and ends with a digest
over itself. Nothing is ever written twice or changed. So whatever moment a writer dies in, the
commits before are whole, and its last one is either whole or no commit.

**One writer.** A writer makes record n + 1 after it has seen or made record n. Where two do so, one
finds that the record is there, and stops: it is fenced off. This holds however long a writer slept
in between, because the number that it would take next is never free again:

- what another writer made first, after it had looked, stays, as does all that is not the deleter's
  own: a writer deletes states that are too old, but of records only its own, and not its first;
- a writer that has looked and then made its first record looks once more: if there are higher ones,
  the record's number had been taken and deleted before, and it takes its record back.

Records are about a kilobyte, and a few are left each time that a fit is gone on with.

How a record is made only if it is not there: `dask_gmm.data.exclusive`. A commit costs two requests
and one for what is deleted; a writer's first one, two more.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from dask_gmm.data.checked_store import first_line
from dask_gmm.data.exclusive import CLAIM, place_of
from dask_gmm.data.rereading import reread
from dask_gmm.data.stores import store_spec
from dask_gmm.data.urls import crosses_network, join_url
from dask_gmm.errors import CheckpointError, DaskGMMError, FencedError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dask_gmm.data.exclusive import Doing

__all__ = ["FORMAT", "Commit", "Commits"]

FORMAT = 1
"""What this version writes, and the newest that it reads."""

_RECORD = re.compile(r"(\d{12})\.commit")
_STATE = re.compile(r"(\d{12})-[0-9a-f]{16}\.state")
_SCRAP = re.compile(r"\.(\d{12})\.commit-[0-9a-f]{16}\.tmp")
_CLAIM = re.compile(rf"(\d{{12}}){re.escape(CLAIM)}")
_NOBODYS = re.compile(r"\.nfs[0-9a-f]+")  # NFS's own name for a file that is deleted and open
_SHOWN = 3
_LOOKS = 10
_STOPS = (
    "This fit stops here, and the other one goes on. Give every fit a checkpoint of its own, and "
    "start one again only after it has ended."
)


@dataclass(frozen=True)
class Commit:
    """A state, as it was committed.

    Attributes
    ----------
    number : int
        1, 2, … in the order of the commits.
    about : mapping
        What was said of it; JSON values.
    payload : bytes
        The state.
    """

    number: int
    about: Mapping[str, Any]
    payload: bytes = field(repr=False)


class Commits:
    """A place for small states, of which the newest count.

    One writer holds one of these. What it does not hold against is several threads at once.

    Parameters
    ----------
    url : str or path
        A folder, which is made when it is needed, ``s3://``, ``gs://``, ``az://``, or ``memory://``
        for this process alone. Nothing else may be in it.
    storage_options : mapping, optional
        For object stores, without credentials.
    keep : int, default=3
        How many commits stay, as far as is known whole ones.

    Attributes
    ----------
    name : str
        Path or URL, for messages.
    skipped : tuple of str
        A sentence for each damaged commit that the last `newest` passed over.
    undeleted : str
        Why what is too old could not be deleted after the last commit, "" if it could. The next
        commit tries again.

    Raises
    ------
    InputError
        For a place that cannot be written to in this way, and options that cannot be used.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        *,
        keep: int = 3,
    ) -> None:
        if keep < 1:
            raise InputError(f"At least one commit has to stay: keep must be positive, got {keep}.")
        spec = store_spec(url, storage_options)
        self._place = place_of(spec)
        self._far = crosses_network(spec.url)
        self._keep = keep
        self._token = secrets.token_hex(8)  # who this is, in its records
        self._last: int | None = None  # the highest number known to be taken
        self._certain = False  # that the number after it is free only if nobody has taken it
        self._sound: list[int] = []
        self._files: dict[str, int] = {}  # what may be deleted once its number is too old
        self._fenced = ""
        self.name = spec.url
        self.skipped: tuple[str, ...] = ()
        self.undeleted = ""

    def __repr__(self) -> str:
        return f"Commits({self.name!r}, keep={self._keep})"

    # -- reading -----------------------------------------------------------------------------------

    def newest(self) -> Commit | None:
        """Return the newest commit that is whole; the next `commit` follows on what is there now.

        Nothing is written. Damaged commits are passed over, and said in `skipped`.

        Returns
        -------
        Commit or None
            None where the place is empty or absent.

        Raises
        ------
        CheckpointError
            There are commits and none is whole; a later version wrote them; other things are in
            the place; it cannot be read.
        """
        listing = self._list()
        for _ in range(_LOOKS):
            found, self.skipped = self._search(listing)
            now = self._list() if self.skipped else listing
            if now.highest == listing.highest:
                break
            listing = now  # no damage: another writer goes on and has deleted what was found first
        self._follow(listing)
        if found is None and listing.records:
            raise CheckpointError(
                f"No commit in {self.name} is whole. {' '.join(self.skipped[:_SHOWN])} Restore the "
                f"place from a copy, or start over at another one or with resume='never'."
            )
        numbers = listing.states & listing.records
        self._sound = sorted(n for n in numbers if found is not None and n <= found.number)
        return found

    def present(self) -> bool:
        """Whether there is any commit, whole or not, whatever else is there.

        Raises
        ------
        CheckpointError
            The place cannot be read.
        """
        return bool(self._list(strict=False).records)

    def begin_again(self) -> None:
        """Let the next `commit` begin another history, whatever is there: it replaces all of it.

        What is there is neither read nor, before that commit is made, touched. Numbers go on, so
        that whoever still writes the older history is fenced off.

        Raises
        ------
        CheckpointError
            Other things are in the place; it cannot be read.
        """
        self._follow(self._list())
        self._sound = []
        self.skipped = ()

    def _follow(self, listing: _Listing) -> None:
        self._last = listing.highest
        self._certain = False
        self._files = {}
        self._fenced = ""

    def _search(self, listing: _Listing) -> tuple[Commit | None, tuple[str, ...]]:
        skipped: list[str] = []
        oldest = min(listing.states, default=0)
        for number in sorted(listing.records, reverse=True):
            if number < oldest:
                break  # records that stay when their states have gone
            try:
                commit = reread(partial(self._read, number), far=self._far, damage=_DamagedError)
                return commit, tuple(skipped)
            except _DamagedError as damage:
                skipped.append(f"Commit {number} in {self.name} is damaged: {damage}.")
        return None, tuple(skipped)

    def _read(self, number: int) -> Commit:
        record = self._record(number)
        payload = self._content(record.state)
        if payload is None:
            raise _DamagedError(f"its state {record.state} is gone")
        if len(payload) != record.size:
            raise _DamagedError(
                f"its state {record.state} has {len(payload)} bytes instead of {record.size}"
            )
        if hashlib.sha256(payload).hexdigest() != record.sha256:
            raise _DamagedError(f"its state {record.state} does not match its SHA-256")
        return Commit(number, record.about, payload)

    def _record(self, number: int) -> _Record:
        content = self._content(_record_name(number))
        if content is None:
            raise _DamagedError(f"its record {_record_name(number)} is gone")
        return _Record.from_bytes(content, number, self.name)

    def _content(self, name: str) -> bytes | None:
        with self._told("read", name):
            try:
                return self._place.read(name)
            except FileNotFoundError:
                return None

    def _list(self, *, patient: bool = False, strict: bool = True) -> _Listing:
        records: set[int] = set()
        files: dict[str, int] = {}
        foreign: list[str] = []
        with self._told("read"):
            for name in self._place.names(patient=patient):
                if record := _RECORD.fullmatch(name):
                    records.add(int(record[1]))
                elif part := (
                    _STATE.fullmatch(name) or _SCRAP.fullmatch(name) or _CLAIM.fullmatch(name)
                ):
                    files[name] = int(part[1])
                elif not _NOBODYS.fullmatch(name):
                    foreign.append(name)
                    if strict and len(foreign) > _SHOWN:
                        break
        if strict and foreign:
            shown = ", ".join(repr(name) for name in sorted(foreign)[:_SHOWN])
            raise CheckpointError(
                f"{self.name} holds other things than a checkpoint "
                f"({shown}{', …' if len(foreign) > _SHOWN else ''}), and none is written among "
                f"them. Choose a place that is empty or not there yet."
            )
        return _Listing(frozenset(records), files)

    # -- writing -----------------------------------------------------------------------------------

    def commit(self, payload: bytes, about: Mapping[str, Any]) -> int:
        """Commit a state; it is durable when this returns.

        Parameters
        ----------
        payload : bytes
            The state.
        about : mapping
            What to say of it: JSON values, of which numbers are finite.

        Returns
        -------
        int
            The commit's number.

        Raises
        ------
        FencedError
            Another writer has committed since this one looked, or this one never looked and there
            are commits.
        CheckpointError
            The place cannot be written. The commits before are as they were.
        InputError
            `about` is no JSON.
        """
        about = _plain(about)
        if self._fenced:
            raise FencedError(self._fenced)
        if self._last is None:
            self._look_first()
        while True:
            assert self._last is not None
            number = self._last + 1
            made = self._make(number, payload, about)
            self._last = number
            self._sound.append(number)
            if made:
                self._tidy()
                return number
            # An attempt of before was made after all, though its answer was lost: on to the next.

    def _look_first(self) -> None:
        listing = self._list()
        if listing.highest:
            raise FencedError(self._taken(listing.highest))
        self._follow(listing)

    def _make(self, number: int, payload: bytes, about: Mapping[str, Any]) -> bool:
        """Write a state and its record; False if an earlier attempt of this writer's is there."""
        state = f"{number:012d}-{secrets.token_hex(8)}.state"
        record = _Record(number, state, len(payload), _sha256(payload), self._me(), about)
        name, content = _record_name(number), record.to_bytes()
        certain, self._certain = self._certain, False  # until it is known what came of this
        self._files[state] = number
        with self._told("written", state):
            self._place.write(state, payload)
        with self._told("written", name):
            made = self._place.create(name, content)
        if not made:
            there = self._who(number)
            if there is None or there.writer.get("token") != self._token:
                self._stop(number, state)
            if there.state != state:
                return False
        if certain:
            self._files[name] = number
        else:
            self._check_first(number, state, content)
        self._certain = True
        return True

    def _check_first(self, number: int, state: str, content: bytes) -> None:
        """See that a first record, of a number that was free, is the newest of all."""
        with self._told("written", _record_name(number)):
            refuses = self._place.refuses_again(_record_name(number), content)
        if not refuses:
            raise CheckpointError(
                f"{self.name} lies in a store that writes over an object although it was told to "
                f"write only if there is none (If-None-Match: *), so two fits could not be told "
                f"apart there. Use another store, or a newer version of its server."
            )
        listing = self._list(patient=True, strict=False)
        if listing.highest > number:
            self._stop(listing.highest, _record_name(number), state)
        self._files |= listing.files  # of those before it

    def _stop(self, number: int, *own: str) -> NoReturn:
        """Delete what is this writer's own, and raise that commit `number` is another's."""
        self._fenced = self._taken(number)
        self._delete(own)
        raise FencedError(self._fenced)

    def _taken(self, number: int) -> str:
        there = self._who(number)
        if there is None:
            who = "another process"
        else:
            who = "process {pid} on {host} (at {time})".format_map(_Words(there.writer))
        return (
            f"Another fit writes to the checkpoint {self.name}: {who} has made commit {number}, of "
            f"which this fit did not know. {_STOPS}"
        )

    def _who(self, number: int) -> _Record | None:
        read = partial(self._record, number)
        try:
            return reread(read, far=self._far, damage=_DamagedError)
        except _DamagedError:
            return None

    def _me(self) -> dict[str, Any]:
        return {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _tidy(self) -> None:
        self._sound = self._sound[-self._keep :]
        oldest = self._sound[0]
        old = [(number, name) for name, number in self._files.items() if number < oldest]
        # Records first: a writer that dies here leaves no record that promises a state.
        old.sort(key=lambda pair: (pair[0], not _RECORD.fullmatch(pair[1])))
        names = [name for _, name in old]
        self.undeleted = self._delete(names)
        if not self.undeleted:
            for name in names:
                del self._files[name]

    def _delete(self, names: Sequence[str]) -> str:
        """Delete objects, which never makes a commit fail; return why it could not be done."""
        if not names:
            return ""
        try:
            self._place.delete(names)
        except Exception as error:  # noqa: BLE001  obstore has a dozen kinds of them
            return f"{join_url(self.name, names[0])} could not be deleted: {first_line(error)}."
        return ""

    @contextmanager
    def _told(self, doing: Doing, name: str = "") -> Iterator[None]:
        """Say what a place refuses to do."""
        try:
            yield
        except (DaskGMMError, MemoryError):
            raise
        except Exception as error:
            why = self._place.refusal(error, join_url(self.name, name), doing)
            kept = " The commits before are as they were." if doing == "written" else ""
            raise CheckpointError(f"{why}{kept}") from error


# -- records ---------------------------------------------------------------------------------------


class _DamagedError(Exception):
    """A commit is none; the message is a clause that says why."""


@dataclass(frozen=True)
class _Record:
    """What a commit's record says."""

    number: int
    state: str
    size: int
    sha256: str
    writer: Mapping[str, Any]
    about: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """Return it as JSON, with a digest over the rest. Later formats keep to that digest."""
        fields = {"format": FORMAT, **self.__dict__}
        return _canonical({**fields, "record_sha256": _sha256(_canonical(fields))}) + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes, number: int, place: str) -> _Record:
        """Read a record, which must be that of commit `number`.

        Raises
        ------
        _DamagedError
            It is not as it was written.
        CheckpointError
            It is of a later format.
        """
        try:
            fields = json.loads(content)
            digest = fields.pop("record_sha256")
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            raise _DamagedError(f"its record {_record_name(number)} is torn") from None
        if digest != _sha256(_canonical(fields)):
            raise _DamagedError(f"its record {_record_name(number)} does not match its digest")
        found = fields.pop("format", None)
        if type(found) is int and found > FORMAT:
            raise CheckpointError(
                f"The checkpoint {place} has format {found}, and this version reads formats up to "
                f"{FORMAT}: update dask-gmm, or use another checkpoint."
            )
        try:
            record = cls(**fields)
            named = _STATE.fullmatch(record.state)  # a name in the place, and no path out of it
            sound = type(found) is int and found == FORMAT and record.number == number
            sound = sound and named is not None and int(named[1]) == number
        except TypeError:
            sound = False
        if not sound:
            raise _DamagedError(f"its record {_record_name(number)} is that of something else")
        return record


class _Words(dict[str, Any]):
    """Names for `str.format_map`, of which some may be absent."""

    def __missing__(self, key: str) -> str:
        return "?"


def _record_name(number: int) -> str:
    return f"{number:012d}.commit"  # of one length, so that names sort as numbers do


def _of_numpy(value: object) -> Any:
    """A number of NumPy's, which JSON does not know, as Python has it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _plain(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values as whoever reads them will have them."""
    try:
        plain: dict[str, Any] = json.loads(
            json.dumps(dict(about), allow_nan=False, default=_of_numpy)
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"What is said of a commit must be JSON: {first_line(error)}.") from error
    return plain


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class _Listing:
    """The numbers of records, and the numbers of whatever else belongs to commits, by name."""

    records: frozenset[int]
    files: Mapping[str, int]

    @property
    def highest(self) -> int:
        """The highest number that is taken, by a record, whole or not, or a claim; 0 if none is."""
        return max(self.records | self._numbers(_CLAIM), default=0)

    @property
    def states(self) -> frozenset[int]:
        """The numbers that have a state."""
        return self._numbers(_STATE)

    def _numbers(self, kind: re.Pattern[str]) -> frozenset[int]:
        return frozenset(number for name, number in self.files.items() if kind.fullmatch(name))
