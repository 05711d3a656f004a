"""Host zone. What a prepared data set says of itself to people (a dataset card) and to programs (Croissant).

Reference: the dataset cards of the Hugging Face hub (Markdown under a YAML header); MLCommons Croissant 1.0.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from simxrd_jax.export.features import TEXT, Feature
from simxrd_jax.io.files import file_digest

CARD, CROISSANT = "README.md", "croissant.json"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))


@dataclass(frozen=True)
class Description:
    """A data set in words.

    Attributes:
      name, title: for programs and for people.
      summary: a paragraph.
      features: of a record.
      facts: name -> value of what made it.
      licence: SPDX name, or a sentence.
      citation: to cite.
      url: of the data set or of its source, "" where there is none.
      version: of the data set.
      notes: sentences on limits and on what was left out.
    """

    name: str
    title: str
    summary: str
    features: Sequence[Feature]
    facts: Mapping[str, str]
    licence: str
    citation: str
    url: str
    version: str
    notes: Sequence[str] = field(default_factory=tuple)


def card_text(about: Description, splits: Mapping[str, int]) -> str:
    """The dataset card.

    Args:
      about: the data set.
      splits: name -> records.
    """
    total = sum(splits.values())
    size = next((name for most, name in SIZES if total < most), "n>10M")
    lines = [
        "---",
        f"pretty_name: {json.dumps(about.title, ensure_ascii=False)}",
        f"license: {about.licence if ' ' not in about.licence else 'other'}",
        f"size_categories: [{size}]",
        "tags: [powder-diffraction, x-ray-diffraction, crystallography, chemistry]",
        "---",
        "",
        f"# {about.title}",
        "",
        about.summary,
        "",
        "| split | records |",
        "|---|---|",
        *(f"| {name} | {count:,} |" for name, count in splits.items()),
        "",
        "| feature | type | shape | unit | meaning |",
        "|---|---|---|---|---|",
        *(_row(f) for f in about.features),
        "",
        *(f"- {name}: {value}" for name, value in about.facts.items()),
        f"- licence: {about.licence}",
        "",
        "```python",
        "import tensorflow_datasets as tfds",
        "",
        'builder = tfds.builder_from_directory("THIS FOLDER")',
        f'source = builder.as_data_source("{next(iter(splits))}")  # len(source), source[0]',
        "```",
        "",
        *(f"- {note}" for note in about.notes),
        "",
        f"Cite: {about.citation}",
    ]
    return "\n".join(lines) + "\n"


def _row(feature: Feature) -> str:
    codes = f"; codes of {', '.join(feature.classes)}" if 0 < len(feature.classes) <= 10 else ""
    shape = " x ".join(map(str, feature.shape)) or "1"
    return f"| `{feature.name}` | {feature.dtype} | {shape} | {feature.unit or '-'} | {feature.meaning}{codes} |"


def croissant_text(about: Description, files: Sequence[pathlib.Path]) -> str:
    """The Croissant description, which mlcroissant makes and checks.

    Args:
      about: the data set.
      files: of records, in one folder with the description.

    Raises:
      ImportError: mlcroissant is not installed.
      mlcroissant.ValidationError: the description breaks a rule of Croissant.
    """
    import mlcroissant as mlc

    kinds = {"float32": mlc.DataType.FLOAT32, "int32": mlc.DataType.INT32, "uint32": mlc.DataType.UINT32}
    distribution: list[mlc.FileObject | mlc.FileSet] = [
        mlc.FileObject(
            id=path.name,
            name=path.name,
            description="ArrayRecord of tf.train.Example messages",
            content_url=path.name,
            content_size=f"{path.stat().st_size} B",
            encoding_formats=["application/octet-stream"],
            sha256=file_digest(path),
        )
        for path in files
    ]
    # The record set reads all of them.
    shards = mlc.FileSet(
        id="shards",
        name="shards",
        description="all files of records",
        contained_in=[path.name for path in files],
        encoding_formats=["application/octet-stream"],
        includes=["*.array_record*"],
    )
    distribution.append(shards)
    fields = [
        mlc.Field(
            id=f"records/{f.name}",
            name=f.name,
            description=f"{f.meaning}{f' [{f.unit}]' if f.unit else ''}",
            data_types=[mlc.DataType.TEXT if f.dtype == TEXT else kinds[f.dtype]],
            is_array=True if f.shape else None,
            array_shape=",".join(map(str, f.shape)) if f.shape else None,
            source=mlc.Source(file_set=shards.id, extract=mlc.Extract(column=f.name)),
        )
        for f in about.features
    ]
    metadata = mlc.Metadata(
        name=about.name,
        description=about.summary,
        cite_as=about.citation,
        license=[about.licence],
        url=about.url or None,
        version=about.version,
        distribution=distribution,
        record_sets=[mlc.RecordSet(id="records", name="records", description="one pattern each", fields=fields)],
    )
    return json.dumps(metadata.to_json(), indent=2, ensure_ascii=False, default=str) + "\n"
