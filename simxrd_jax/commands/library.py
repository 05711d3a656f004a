"""Host zone. The work behind `simxrd library`: building a library, saying what one holds, showing patterns."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simxrd_jax.crystal.structure import CRYSTAL_SYSTEMS
from simxrd_jax.errors import InputError
from simxrd_jax.io.xy import check_target, write_together
from simxrd_jax.library.store import Library, read_library

if TYPE_CHECKING:
    from simxrd_jax.library.sheet import Entry
    from simxrd_jax.library.stream import Batch

SHOWN_REASONS = 5  # skipped structures listed at the end of a build; the library keeps them all
SHOWN_PAIRS = 10  # of labels that disagree
STREAM_ARRAYS = ("hkl", "multiplicity", "f_squared", "lattice")  # what a cached stream keeps on the device
LINE_LENGTH = 100
MAJORITY_LENGTH = 40  # of the name of a class; extinction groups list their members
DEFAULT_PART = "train"
STATISTICS = ("min", "median", "mean", "90 %", "max")


def build_file(
    sources: Sequence[str],
    output: str,
    *,
    presets: Sequence[str] = (),
    workers: int | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    **options: Any,
) -> Library:
    """Builds a library file, with a progress bar on standard error.

    Args:
      sources, presets, options: as in `library.build.build_library`; no preset means its default.
      output: the file.
      workers: processes; None is one for each processor.
      say: takes one sentence for the user.

    Raises:
      InputError: as `build_library` does.
      KeyboardInterrupt: after a sentence that says how to go on.
    """
    from tqdm import tqdm

    from simxrd_jax.library.build import DEFAULT_PRESETS, PART_SUFFIX, Progress, build_library

    bar: tqdm | None = None
    with contextlib.ExitStack() as stack:

        def advance(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:  # made late: a resumed build starts where it was, or its rate would be wrong
                look = {"unit": "structure", "desc": "library", "file": sys.stderr, "leave": False, "disable": None}
                bar = stack.enter_context(tqdm(total=total, initial=done, **look))
            bar.update(done - bar.n)

        def tell(sentence: str) -> None:
            if bar is not None:
                bar.clear()
            say(sentence)

        try:
            library = build_library(
                sources,
                presets or DEFAULT_PRESETS,
                output=output,
                workers=(os.cpu_count() or 1) if workers is None else workers,
                progress=Progress(tell, advance),
                **options,
            )
        except KeyboardInterrupt:
            stack.close()
            part = output + PART_SUFFIX
            if os.path.isdir(part):
                say(f"{output}: stopped; the same command resumes the build, and deleting {part} forgets it")
            raise
    skipped = library.meta.skipped
    for identifier, reason in skipped[:SHOWN_REASONS]:
        say(f"skipped {identifier}: {reason}")
    if len(skipped) > SHOWN_REASONS:
        say(f"skipped {len(skipped) - SHOWN_REASONS} more, `simxrd library info {output} --skipped` lists them")
    size = pathlib.Path(output).stat().st_size
    say(f"{len(library)} structures written to {output} ({_bytes(size)}), {len(skipped)} skipped")
    return library


@dataclasses.dataclass(frozen=True)
class LibraryInfo:
    """What `simxrd library info` says, as JSON-able values.

    Attributes:
      meta: of the library, without the skipped structures.
      structures, skipped: how many.
      file_bytes, device_bytes: size of the file, and of the arrays that a cached stream keeps on the device.
      crystal_systems, space_groups: name or number -> structures; space groups by falling count.
      atoms, reflections: of a structure, by STATISTICS.
      agreeing: share of structures whose tight and loose label agree.
      disagreements: (tight, loose, structures) of the most frequent pairs that do not.
      extinction_groups: (groups in the library, groups in all).
      splits: name -> what the split says of itself.
    """

    meta: dict[str, Any]
    structures: int
    skipped: int
    file_bytes: int
    device_bytes: int
    crystal_systems: dict[str, int]
    space_groups: dict[str, int]
    atoms: dict[str, float]
    reflections: dict[str, float]
    agreeing: float
    disagreements: list[tuple[int, int, int]]
    extinction_groups: tuple[int, int]
    splits: dict[str, Any]


def library_info(library: Library, file_bytes: int = 0) -> LibraryInfo:
    """Counts and sizes of a library."""
    from simxrd_jax.library.extinction import extinction_groups

    meta = dataclasses.asdict(library.meta)
    del meta["skipped"]
    systems = collections.Counter(library.crystal_system.tolist())
    groups = collections.Counter(library.space_group.tolist())
    differ = ~library.labels_agree
    pairs = collections.Counter(
        zip(library.space_group_tight[differ].tolist(), library.space_group_loose[differ].tolist(), strict=True)
    )
    return LibraryInfo(
        meta=meta,
        structures=len(library),
        skipped=len(library.meta.skipped),
        file_bytes=file_bytes,
        device_bytes=sum(getattr(library, name).nbytes for name in STREAM_ARRAYS),
        crystal_systems={name: systems.get(name, 0) for _, name in CRYSTAL_SYSTEMS},
        space_groups={str(number): count for number, count in sorted(groups.items(), key=lambda g: (-g[1], g[0]))},
        atoms=_statistics(library.n_atom),
        reflections=_statistics(library.n_reflection),
        agreeing=float(library.labels_agree.mean()),
        disagreements=[(a, b, n) for (a, b), n in sorted(pairs.items(), key=lambda p: (-p[1], p[0]))[:SHOWN_PAIRS]],
        extinction_groups=(len(np.unique(library.extinction_group)), len(extinction_groups().members)),
        splits={name: dict(value) for name, value in library.split_meta.items()},
    )


def _statistics(counts: np.ndarray) -> dict[str, float]:
    values = (counts.min(), np.median(counts), counts.mean(), np.quantile(counts, 0.9), counts.max())
    return {name: round(float(value), 1) for name, value in zip(STATISTICS, values, strict=True)}


def show_info(path: str, *, as_json: bool, plot: str | None, skipped: bool) -> str:
    """The text of `simxrd library info`; a picture of the long tail is written on the way.

    Raises:
      InputError: the library cannot be read or the picture not written.
    """
    if plot is not None:
        from simxrd_jax.plots import check_format

        check_format(plot)
        check_target(plot, [path])
    library = read_library(path)
    info = library_info(library, pathlib.Path(path).stat().st_size)
    if plot is not None:
        from simxrd_jax.library.plots import plot_long_tail
        from simxrd_jax.plots import figure_bytes

        title = f"{library.meta.name}: {len(library):,} structures in {len(info.space_groups)} space groups"
        figure = plot_long_tail({int(number): count for number, count in info.space_groups.items()}, title)
        write_together({pathlib.Path(plot): figure_bytes(figure, plot)})
    listed = [f"{identifier}: {reason}" for identifier, reason in library.meta.skipped]
    if as_json:
        content = dataclasses.asdict(info) | ({"skipped_structures": library.meta.skipped} if skipped else {})
        return json.dumps(content, indent=2, ensure_ascii=False)
    if skipped:
        return "\n".join(listed) if listed else "no structure was skipped"
    return "\n".join(_lines(info))


def _lines(info: LibraryInfo) -> list[str]:
    meta = info.meta
    lines = [
        f"library            {meta['name']}, format {meta['format_version']}, made by simxrd_jax {meta['simxrd_version']}",
        f"structures         {info.structures:,} ({info.skipped:,} skipped)",
        f"sources            {', '.join(meta['sources'])}",
        f"presets            {', '.join(meta['presets'])} ({meta['radiation']}), "
        f"1/d from {meta['inverse_d_min']:.5f} to {meta['inverse_d_max']:.5f} 1/A",
        f"form factors       {meta['form_factors']}, "
        + (f"dispersion at {', '.join(f'{w:.6g}' for w in meta['wavelengths'])} A" if meta["dispersion"] else "no dispersion"),
        f"symmetry           symprec {meta['symprec']:g} A",
        f"file               {_bytes(info.file_bytes)}",
        f"on the device      {_bytes(info.device_bytes)} ({', '.join(STREAM_ARRAYS)})",
        f"fingerprint        {meta['fingerprint']}",
        "",
        _row("", *STATISTICS),
        _row("atoms", *(f"{v:,.4g}" for v in info.atoms.values())),
        _row("reflections", *(f"{v:,.4g}" for v in info.reflections.values())),
        "",
        *(_row(name, f"{n:,}", f"{100 * n / info.structures:.1f} %") for name, n in info.crystal_systems.items()),
        "",
        f"{len(info.space_groups)} space groups in {info.extinction_groups[0]} of {info.extinction_groups[1]} extinction "
        "groups; structures of each:",
        *_wrapped([f"{number}: {count:,}" for number, count in info.space_groups.items()]),
        "",
        f"space groups at {meta['symprec_tight']:g} and {meta['symprec_loose']:g} A agree for {100 * info.agreeing:.2f} % "
        "of the structures" + ("; where not, most often:" if info.disagreements else ""),
        *_wrapped([f"{a or 'none'} -> {b or 'none'}: {n:,}" for a, b, n in info.disagreements]),
    ]
    for name, split in info.splits.items():
        sizes = ", ".join(f"{part} {n:,}" for part, n in split["sizes"].items())
        lines += ["", f"split {name}: {sizes}"]
        for label, table in split["classes"].items():
            shares = ", ".join(f"{part} {100 * v:.1f} %" for part, v in table["baseline"].items() if v is not None)
            missing = len(table["missing_in_train"])
            majority = textwrap.shorten(str(table["majority"]), MAJORITY_LENGTH, placeholder=" ...")
            lines += [
                f"  {label.replace('_', ' '):<17}{len(table['names'])} classes"
                + (f", {missing} of test are not in train" if missing else ""),
                f"{'':<19}always {majority}: {shares}",
            ]
    if meta["extra"].get("notes"):
        lines += ["", *(f"note: {note}" for note in meta["extra"]["notes"])]
    return lines


def _row(name: str, *cells: str) -> str:
    return (f"{name:<17}" + "".join(f"{cell:>10}" for cell in cells)).rstrip()


def _wrapped(cells: Sequence[str]) -> list[str]:
    """Cells of one width in lines of at most LINE_LENGTH characters."""
    width = max(map(len, cells), default=0) + 3
    per_line = max(1, LINE_LENGTH // width)
    rows = [cells[i : i + per_line] for i in range(0, len(cells), per_line)]
    return ["  " + "".join(cell.ljust(width) for cell in row).rstrip() for row in rows]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


@dataclasses.dataclass(frozen=True)
class SheetOptions:
    """What `simxrd library show` samples and how it is drawn, see `stream.make_stream`.

    Attributes:
      preset: name.
      count: patterns.
      split, part: of the library; no split means every structure.
      sampling: over structures, by space group.
      mode, scale: of the patterns.
      seed: of the run; the sheet is its first batch.
    """

    preset: str = "laboratory"
    count: int = 12
    split: str | None = None
    part: str | None = None
    sampling: str = "balanced"
    mode: str = "cached"
    scale: str = "maximum"
    seed: int = 0


def show_sheet(path: str, options: SheetOptions = SheetOptions(), *, output: str | None = None) -> str:
    """The text of `simxrd library show`; the contact sheet is written on the way.

    Args:
      path: of the library.
      options: everything that decides the patterns.
      output: the picture; None makes none.

    Raises:
      InputError: the library cannot be read, the options are bad or do not go with it, or the picture cannot be written.
    """
    import jax

    from simxrd_jax.commands.specimen import MAX_SEED
    from simxrd_jax.library.sheet import MAX_PANELS, sheet_entries
    from simxrd_jax.library.stream import make_stream, sample_keys
    from simxrd_jax.plots import check_format
    from simxrd_jax.presets import get_preset, key_of_seed

    if not 1 <= options.count <= MAX_PANELS:
        raise InputError(f"a sheet of {options.count} patterns cannot be drawn so that it is read; choose 1 to {MAX_PANELS}")
    if not 0 <= options.seed <= MAX_SEED:
        raise InputError(f"the seed {options.seed} must be from 0 to {MAX_SEED}; choose another")
    if options.part is not None and options.split is None:
        raise InputError(f"the part {options.part} is one of a split; name the split too, or leave the part out")
    preset = get_preset(options.preset)
    if output is not None:
        check_format(output)
        check_target(output, [path])
    library = read_library(path)
    stream = make_stream(
        library,
        preset,
        batch=options.count,
        split=options.split,
        part=options.part or DEFAULT_PART,
        sampling=options.sampling,
        mode=options.mode,
        scale=options.scale,
    )
    key = key_of_seed(options.seed)
    if output is None:
        data = jax.random.key_data(sample_keys(key, 0, 0, options.count))
        entries = sheet_entries(library, np.asarray(stream.draw(key, 0)), np.asarray(data))
    else:
        batch = jax.device_get(stream.batch(key, 0))
        entries = sheet_entries(library, batch.structure, batch.key_data)
        _draw_sheet(library, options, int(stream.subset.size), batch, entries, output)
    return "\n".join(_sheet_lines(library, options, entries))


def _draw_sheet(
    library: Library, options: SheetOptions, structures: int, batch: Batch, entries: Sequence[Entry], output: str
) -> None:
    """Writes the picture of a batch that was sampled from so many structures."""
    from simxrd_jax.library.sheet import MARK, condition_legend, condition_parts, plot_sheet
    from simxrd_jax.plots import figure_bytes
    from simxrd_jax.presets import get_preset

    preset, meta = get_preset(options.preset), library.meta
    conditions = [
        condition_parts({name: values[i] for name, values in batch.conditions.items()}, preset) for i in range(len(entries))
    ]
    origin = "" if options.split is None else f", {options.part or DEFAULT_PART} of {options.split}"
    caption = [
        f"{meta.name}: {_counted(len(entries), 'pattern')} of {_counted(structures, 'structure')}{origin}",
        f"preset {preset.name}, sampling {options.sampling}, mode {options.mode}, scale {options.scale}, seed {options.seed}",
        *([legend] if (legend := condition_legend(preset)) else []),
    ]
    if any(entry.other_labels for entry in entries):
        caption.append(
            f"{MARK} a | b: the label depends on the tolerance, space groups at {meta.symprec_tight:g} and "
            f"{meta.symprec_loose:g} Å"
        )
    grid = np.asarray(preset.grid().two_theta)
    figure = plot_sheet(grid, np.asarray(batch.pattern), entries, conditions, caption)
    write_together({pathlib.Path(output): figure_bytes(figure, output)})


def _sheet_lines(library: Library, options: SheetOptions, entries: Sequence[Entry]) -> list[str]:
    """A table of the patterns, and the command that draws one of them again."""
    from simxrd_jax.library.sheet import labels_text, plain_symbol

    meta = library.meta
    header = ("", "id", "formula", "space group", "crystal system", "seed", "")
    rows: list[tuple[str, ...]] = [header]
    for entry in entries:
        symbol = f"{entry.space_group} {plain_symbol(entry.space_group)}" if entry.space_group else "none"
        differ = (
            ""
            if entry.other_labels is None
            else f"at {meta.symprec_tight:g} | {meta.symprec_loose:g} A: {labels_text(entry.other_labels)}"
        )
        rows.append(
            (str(entry.number), entry.identifier, entry.formula, symbol, entry.crystal_system, str(entry.seed), differ)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    first = entries[0]
    tables = "" if meta.form_factors == "it92" else f" --form-factors {meta.form_factors}"
    tables += "" if meta.dispersion else " --no-dispersion"
    command = (
        f"simxrd simulate CIF --preset {options.preset} --seed {first.seed} --accuracy training --dtype float32 "
        f"--symprec {meta.symprec:g}{tables} -o pattern.xy"
    )
    # A cached |F|^2 is that of the unstrained cell: 0.1 to 0.5 % of the highest point.
    strain = " (there the strain acts on |F|^2 too)" if options.mode == "cached" else ""
    return [*lines, "", f"pattern {first.number} again, with the file of {first.identifier} for CIF{strain}:", f"  {command}"]
