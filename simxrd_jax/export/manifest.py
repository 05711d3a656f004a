"""Host zone. manifest.json of a set of patterns: what it was asked to be, what it holds, which files are there.

It is renewed after each shard, so that it lists what a killed run had finished. It holds no time: equal runs make equal files.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from simxrd_jax.errors import InputError
from simxrd_jax.export.features import Feature, from_json
from simxrd_jax.io.files import file_digest
from simxrd_jax.io.xy import write_together

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
SHARD_NUMBER = re.compile(r"-(\d{5})-of-(\d{5})")
PART_OF_HOST = re.compile(r"host-(\d{5})-of-(\d{5})\.json")  # manifest of one host's shards


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """A finished file.

    Attributes:
      file: its name in the folder.
      records: in it.
      bytes, sha256: of it.
      skipped: (source, reason) of what was left out where its records come from.
    """

    file: str
    records: int
    bytes: int
    sha256: str
    skipped: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a set says of itself; all of it is JSON.

    Attributes:
      config: what was asked for; a set goes on only under an equal one.
      made_by: versions, commit and device, which decide the bits too.
      about: axis, classes, provenance: what a reader needs to know.
      features: of a record.
      format: of the files.
      shards: finished files, in order of their records.
      complete: whether all are.
    """

    config: Mapping[str, Any]
    made_by: Mapping[str, Any]
    about: Mapping[str, Any]
    features: tuple[Feature, ...]
    format: str
    shards: tuple[ShardEntry, ...] = ()
    complete: bool = False

    @property
    def records(self) -> int:
        """In the finished files."""
        return sum(shard.records for shard in self.shards)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(source, reason) of all that was left out."""
        return [each for shard in self.shards for each in shard.skipped]


def manifest_text(manifest: Manifest) -> str:
    """The content of manifest.json."""
    content = {
        "manifest_version": MANIFEST_VERSION,
        "complete": manifest.complete,
        "records": manifest.records,
        "format": manifest.format,
        "config": manifest.config,
        "made_by": manifest.made_by,
        "about": manifest.about,
        "features": [feature.to_json() for feature in manifest.features],
        "shards": [dataclasses.asdict(shard) for shard in manifest.shards],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_manifest(path: pathlib.Path, manifest: Manifest) -> None:
    """Writes it beside its place first.

    Raises:
      InputError: it cannot be written.
    """
    write_together({path: manifest_text(manifest)})


def read_manifest(path: pathlib.Path) -> Manifest:
    """The manifest at a path.

    Raises:
      InputError: it is missing, cannot be read or is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name the folder of a set that `simxrd generate` or `import` made") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make the set anew in another folder") from None
    try:
        if content["manifest_version"] != MANIFEST_VERSION:
            raise InputError(f"{path}: is of another version of the format; read it with the program that made it")
        shards = tuple(
            ShardEntry(
                file=_plain_name(shard["file"]),
                records=int(shard["records"]),
                bytes=int(shard["bytes"]),
                sha256=str(shard["sha256"]),
                skipped=tuple((str(source), str(reason)) for source, reason in shard["skipped"]),
            )
            for shard in content["shards"]
        )
        _check_shards(
            shards, int(content["records"]), whole=bool(content["complete"]) and not PART_OF_HOST.fullmatch(path.name)
        )
        features = tuple(from_json(each) for each in content["features"])
        if not features or "two_theta" not in content["about"]:
            raise ValueError("it lacks the features or their axis")
        config, made_by, about = (dict(content[key]) for key in ("config", "made_by", "about"))
        return Manifest(config, made_by, about, features, str(content["format"]), shards, bool(content["complete"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: is damaged ({type(error).__name__}: {error}); make the set anew in another folder"
        ) from None


def _check_shards(shards: Sequence[ShardEntry], records: int, *, whole: bool) -> None:
    """Raises ValueError where the files that are listed cannot be those of the set."""
    if records != sum(shard.records for shard in shards):
        raise ValueError("its files do not hold its records")
    numbers = [tuple(map(int, found.groups())) for shard in shards if (found := SHARD_NUMBER.search(shard.file))]
    if len(set(shards)) < len(shards) or numbers != sorted(set(numbers)):
        raise ValueError("it lists a file twice or out of order")
    if whole and (not shards or (numbers and len(shards) != numbers[0][1])):
        raise ValueError("it does not list all files")


def _plain_name(name: Any) -> str:
    """A name that stays in its folder."""
    if not isinstance(name, str) or pathlib.PurePath(name).name != name:
        raise ValueError(f"{name!r} is no name of a file")
    return name


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names whose values differ, as JSON keeps them."""
    as_json = [json.loads(json.dumps(v)) for v in (a, b)]
    return sorted(name for name in {*a, *b} if as_json[0].get(name) != as_json[1].get(name))


def entry_of(path: pathlib.Path, records: int, skipped: Sequence[tuple[str, str]] = (), name: str = "") -> ShardEntry:
    """The entry of a file that is there, under its own name or the one it will get."""
    return ShardEntry(name or path.name, records, path.stat().st_size, file_digest(path), tuple(skipped))
