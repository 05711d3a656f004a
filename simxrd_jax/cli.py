"""Host zone. The `simxrd` command: options in, exit codes out; the work is in `simxrd_jax.commands`.

Imports of JAX and of the file readers wait until a subcommand runs, so that help is instant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from simxrd_jax import __version__
from simxrd_jax.errors import NO_MEMORY, InputError, device_error

EXAMPLES = """\b
Examples:
  simxrd simulate quartz.cif -o quartz.xy --plot quartz.png
  simxrd simulate quartz.cif --wavelength 0.4139 --two-theta 2 25 0.002 -o quartz.xy
  simxrd simulate CeO2.cif --set grain_size=150 --set microstrain=0.001 --peaks peaks.csv -o CeO2.xy
  simxrd simulate quartz.cif:0.7 corundum.cif:0.3 --wavelength CuKa1 -o mixture.xy
  simxrd simulate quartz.cif --preset laboratory --seed 7 --count 100 -o batch/quartz.xy
  simxrd simulate structures/ --preset simxrd -o patterns/
"""
GROUP_EXAMPLES = """\b
Examples:
  simxrd simulate quartz.cif -o quartz.xy --plot quartz.png
  simxrd conditions
  simxrd presets
  simxrd library build structures/ -o structures.simxrd
  simxrd library show structures.simxrd -o sheet.png
  simxrd generate structures.simxrd -n 100000 -o patterns
  simxrd train experiments/imbalance/config.py:cross_entropy
  simxrd evaluate runs/cross_entropy-100 --on measured
  simxrd predict runs/cross_entropy-100 pattern.xy
  simxrd refine pattern.xy --phase quartz.cif --wavelength CuKa -o refined
"""
BUILD_EXAMPLES = """\b
Examples:
  simxrd library build structures/ -o structures.simxrd
  simxrd library build materials.db more.json.gz -o all.simxrd --preset laboratory --workers 4
"""
INFO_EXAMPLES = """\b
Examples:
  simxrd library info structures.simxrd
  simxrd library info structures.simxrd --plot long_tail.png
  simxrd library info structures.simxrd --json > info.json
"""
SHOW_EXAMPLES = """\b
Examples:
  simxrd library show structures.simxrd -o sheet.png
  simxrd library show structures.simxrd -n 30 --preset simxrd --scale log --seed 7 -o sheet.png
  simxrd library show structures.simxrd --split ool_disjoint --part test --sampling uniform
"""
GENERATE_EXAMPLES = """\b
Examples:
  simxrd generate structures.simxrd -n 100000 --preset laboratory -o patterns
  simxrd generate structures.simxrd --per-structure 10 --split ool_disjoint --part test --format hdf5 -o test
  simxrd generate structures.simxrd --recipe simxrd-4m --format ase -o train.db
  simxrd generate structures.simxrd -n 1000 --set grain_size=200 --set zero_shift=0 --format npz -o small
  simxrd generate structures.simxrd -n 100000 --hosts 4 --host 0 -o patterns   # and the same with --host 1, 2, 3
  simxrd generate --list-recipes
"""
IMPORT_EXAMPLES = """\b
Examples:
  simxrd import train.db -o train
  simxrd import test.db --part test --format parquet -o test
"""
VERIFY_EXAMPLES = """\b
Examples:
  simxrd verify patterns
  simxrd verify train.db
"""
TRAIN_EXAMPLES = """\b
Examples:
  simxrd train experiments/imbalance/config.py:cross_entropy
  simxrd train config.py --set model=cnn4 --set optimizer.learning_rate=1e-3 --set targets=crystal_system -o runs/cnn4
  simxrd train config.py --hosts 2 --host 0 --coordinator 10.0.0.1:7733 -o runs/two   # and the same with --host 1
  simxrd train config.py --list
"""
EVALUATE_EXAMPLES = """\b
Examples:
  simxrd evaluate runs/cnn4 --on ool_disjoint
  simxrd evaluate runs/cnn4-100 runs/cnn4-200 runs/cnn4-300 --on measured -o ensemble.json
"""
PREDICT_EXAMPLES = """\b
Examples:
  simxrd predict runs/cnn4 pattern.xy
  simxrd predict runs/cnn4 pattern.csv --wavelength MoKa --top 10
"""
REFINE_EXAMPLES = """\b
Examples:
  simxrd refine quartz.xy --phase quartz.cif --wavelength CuKa -o quartz_refined
  simxrd refine mix.xrdml --phase corundum.cif --phase zincite=ZnO.cif --range 20 120 --exclude 44 45 -o mix
  simxrd refine fap.xra --phase FAP.cif --instrument inst.prm --background 6 --fix '*.sites.*.?' -o fap
  simxrd refine series/*.xye --phase NAC.cif --wavelength 0.4139 --geometry capillary --sequential -o series_refined
  simxrd refine new.xy --phase cell.cif --wavelength CuKa --mode lebail --starts 16 -o new_cell
  simxrd refine quartz.xy --phase quartz.cif --wavelength CuKa --list
"""
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _once(context: click.Context, parameter: click.Parameter, value: tuple[Any, ...]) -> Any:
    """The value of an option that may be given once; click by itself would keep the last without a word."""
    if len(value) > 1:
        raise click.UsageError(f"{parameter.opts[-1]} is given {len(value)} times; give it once", context)
    return value[0] if value else None


def _option(*names: str, **attributes: Any) -> Any:
    return click.option(*names, multiple=True, callback=_once, **attributes)


def _hosts(command: Any) -> Any:
    """Options of the commands that several hosts share."""
    for option in reversed(
        (
            _option("--hosts", "host_count", type=int, metavar="N", help="Processes that share the work (default: 1)."),
            _option("--host", "host_index", type=int, metavar="I", help="Which of them this one is, from 0 (default: 0)."),
            _option(
                "--coordinator", metavar="ADDR:PORT", help="Of host 0, where hosts that train meet; generation needs none."
            ),
        )
    ):
        command = option(command)
    return command


def _chosen_hosts(count: int | None, index: int | None, coordinator: str | None) -> Any:
    from simxrd_jax.hosts import Hosts

    if count is not None and count > 1 and index is None:
        raise click.UsageError(f"--hosts {count}: say with --host which of them this one is, from 0 to {count - 1}")
    return Hosts(1 if count is None else count, index or 0, coordinator)


@click.group(context_settings=CONTEXT, epilog=GROUP_EXAMPLES)
@click.version_option(__version__, prog_name="simxrd")
def cli() -> None:
    """Powder X-ray diffraction: simulate patterns of crystal structures, train networks on them, refine measured ones."""


@cli.command(epilog=EXAMPLES, context_settings=CONTEXT)
@click.argument("files", nargs=-1, required=True, metavar="FILE.cif[:MASS_FRACTION]... | FOLDER")
@_option(
    "-o",
    "--output",
    metavar="OUT.xy",
    help="Pattern file (default: standard output); a folder if the input is one.",
)
@_option("--two-theta", nargs=3, type=float, metavar="START STOP STEP", help="Grid in degrees (default: the preset's).")
@_option("--wavelength", metavar="NAME|ANGSTROM", help="CuKa, CuKa1, MoKa, ... or a number (default: the preset's, CuKa).")
@_option("--preset", metavar="NAME", help="Draw conditions from a preset, see `simxrd presets` (default: the ideal pattern).")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Fix a condition, see `simxrd conditions`.")
@_option("--peak-sum", type=click.Choice(["dense", "windowed", "fft"]), help="How peaks are summed (default: fft).")
@_option(
    "--symprec",
    type=float,
    metavar="ANGSTROM",
    help="Find the symmetry anew (default: the file's operators).",
)
@_option("--form-factors", type=click.Choice(["it92", "waasmaier"]), help="Table of f0 (default: it92).")
@click.option("--no-dispersion", is_flag=True, help="Leave out f' and f''.")
@_option("--seed", type=int, metavar="N", help="Of drawn conditions and noise (default: 0).")
@_option("--count", type=int, metavar="N", help="How many patterns, with seeds that count up; files are numbered.")
@_option("--accuracy", type=click.Choice(["training", "refinement"]), help="Of the FFT peak sum (default: refinement).")
@_option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision of the computation (default: float64).")
@_option("--peaks", metavar="PEAKS.csv", help="Write the peaks within the range (a mixture gets a last column: phase).")
@_option("--plot", metavar="PLOT.png", help="Draw the pattern (.png, .pdf, .svg or .jpg).")
@click.pass_context
def simulate(
    context: click.Context, files: tuple[str, ...], output: str | None, peaks: str | None, plot: str | None, **given: Any
) -> None:
    """Simulate the powder pattern of a CIF, of a mixture of CIFs, or of each CIF in a folder.

    Without --preset the pattern is the ideal one: narrow peaks of constant width, no background, no noise. A mixture takes
    mass fractions after a colon; without them its phases are equal. Bad files in a folder are skipped and reported.
    """
    from simxrd_jax.commands.simulate import parse_conditions, simulate_files
    from simxrd_jax.commands.specimen import Options

    conditions = parse_conditions(given.pop("settings"))
    dispersion = not given.pop("no_dispersion")
    chosen = {name: value for name, value in given.items() if value is not None}
    options = Options(conditions=conditions, dispersion=dispersion, **chosen)
    outcome = simulate_files(files, options, output=output, peaks=peaks, plot=plot, warn=_say)
    if outcome.failed:
        context.exit(1)


@cli.command()
def conditions() -> None:
    """List every condition that --set takes: unit, default, range, meaning."""
    from simxrd_jax.conditions import CONDITIONS

    rows = [("name", "unit", "default", "range", "meaning")]
    for row in CONDITIONS.values():
        default = "off" if row.default is None else _numbers(row.default)
        size = f" ({row.shape[0]} values)" if row.shape else ""
        rows.append((row.name, row.unit or "-", default, f"{row.low:g} to {row.high:g}", row.meaning + size))
    click.echo(_table(rows))


@cli.command()
def presets() -> None:
    """List the presets and the distributions of their conditions."""
    from simxrd_jax.conditions import CONDITIONS
    from simxrd_jax.presets import PRESETS

    for preset in PRESETS.values():
        start, stop, step = preset.two_theta
        lines = ", ".join(f"{x:g}" for x in preset.radiation.wavelength)
        click.echo(f"{preset.name}: {preset.meaning}")
        click.echo(f"  {preset.radiation.name} ({lines} A), 2theta {start:g} to {stop:g} deg in steps of {step:g}")
        rows = [(n, _numbers(v), CONDITIONS[n].unit) for n, v in preset.fixed.items()]
        rows += [(n, str(d), CONDITIONS[n].unit) for n, d in preset.drawn.items()]
        click.echo(_table([("  " + name, value, unit) for name, value, unit in rows]))
        click.echo()


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def models(as_json: bool) -> None:
    """List the networks of the benchmark: reference, variants, parameters."""
    from simxrd_jax.commands.models import show_models

    click.echo(show_models(as_json=as_json))


@cli.command(epilog=GENERATE_EXAMPLES, context_settings=CONTEXT)
@click.argument("path", required=False, metavar="LIB.simxrd")
@_option("-n", "count", type=int, metavar="N", help="Patterns of drawn structures.")
@_option("--per-structure", type=int, metavar="K", help="Patterns of each structure, in place of -n.")
@_option("--preset", metavar="NAME", help="Draw conditions from this preset, see `simxrd presets` (default: laboratory).")
@_option("--recipe", metavar="NAME", help="Number and conditions of a published data set, see --list-recipes.")
@_option(
    "--format",
    type=click.Choice(["array_record", "npz", "hdf5", "parquet", "ase"]),
    help="Of the files; ase is one file in the format of SimXRD-4M (default: array_record).",
)
@_option("-o", "--output", metavar="DIR", help="Folder of the set; the file with --format ase.  [required]")
@_option("--seed", type=int, metavar="N", help="Of structures, conditions and noise (default: 0).")
@_option("--split", metavar="NAME", help="Take a part of this split, see `simxrd library info` (default: every structure).")
@_option("--part", type=click.Choice(["train", "validation", "test"]), help="Which part (default: train).")
@_option(
    "--sampling",
    type=click.Choice(["uniform", "balanced", "square_root"]),
    help="With -n: over structures evenly, over space groups evenly, or between the two (default: uniform).",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Fix a condition, see `simxrd conditions`.")
@_option("--shard-size", type=int, metavar="N", help="Patterns of a file (default: 4096).")
@_hosts
@click.option("--list-recipes", "only_list", is_flag=True, help="List the recipes, and do nothing else.")
def generate(
    path: str | None,
    output: str | None,
    only_list: bool,
    settings: tuple[str, ...],
    host_count: int | None,
    host_index: int | None,
    coordinator: str | None,
    **given: Any,
) -> None:
    """Simulate a set of patterns of a library, and write it to disk with its labels and conditions.

    A command that was stopped, even killed, goes on when it is given again, and ends with the same files. The folder keeps a
    manifest.json that says all of the set; `simxrd verify` checks the files. All devices are used. Several hosts that see
    one folder share a set by --hosts and --host.
    """
    from simxrd_jax.commands.generate import GenerateOptions, generate_set, list_recipes

    if only_list:
        click.echo(list_recipes())
        return
    if path is None:
        raise click.UsageError("name a library; `simxrd library build` makes one")
    if output is None:
        raise click.UsageError("name what to write with -o")
    from simxrd_jax.commands.simulate import parse_conditions

    chosen = {name: value for name, value in given.items() if value is not None}
    hosts = _chosen_hosts(host_count, host_index, coordinator)
    generate_set(path, GenerateOptions(values=parse_conditions(settings), **chosen), output, hosts=hosts, say=_say)


@cli.command("import", epilog=IMPORT_EXAMPLES, context_settings=CONTEXT)
@click.argument("path", metavar="SIMXRD.db")
@_option("-o", "--output", metavar="DIR", help="Folder of the set.  [required]")
@_option(
    "--format", type=click.Choice(["array_record", "npz", "hdf5", "parquet"]), help="Of the files (default: array_record)."
)
@_option("--part", type=click.Choice(["train", "validation", "test"]), help="What the database is (default: train).")
@_option("--shard-size", type=int, metavar="N", help="Rows of a file (default: 4096).")
def import_command(path: str, output: str | None, **given: Any) -> None:
    """Bring a database in the released format of SimXRD-4M into files for training.

    Rows are read as data: nothing in them is executed. A malformed row is skipped and named.
    """
    from simxrd_jax.commands.generate import import_database

    if output is None:
        raise click.UsageError("name a folder for the set with -o")
    import_database(path, output, say=_say, **{name: value for name, value in given.items() if value is not None})


@cli.command(epilog=VERIFY_EXAMPLES, context_settings=CONTEXT)
@click.argument("path", metavar="DIR|TRAIN.db")
def verify(path: str) -> None:
    """Check the files of a set against its manifest: sizes, checksums, numbers of records."""
    from simxrd_jax.commands.generate import verify_set

    click.echo(verify_set(path))


@cli.command(epilog=TRAIN_EXAMPLES, context_settings=CONTEXT)
@click.argument("config", metavar="CONFIG.py[:NAME]")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Change a field of the config.")
@_option("-o", "--output", metavar="RUN", help="Folder of the run (default: runs/NAME-SEED).")
@_hosts
@click.option("--list", "only_list", is_flag=True, help="Print every field with its value, and do nothing else.")
def train(
    config: str,
    settings: tuple[str, ...],
    output: str | None,
    only_list: bool,
    host_count: int | None,
    host_index: int | None,
    coordinator: str | None,
) -> None:
    """Train a network on patterns simulated in the training step.

    A run that was stopped goes on from its last checkpoint when the same command is given again. Its folder keeps the config,
    metrics.jsonl, files for TensorBoard, checkpoints, and at the end results.json with confusion matrices. All devices are
    used, those of several hosts by --hosts, --host and --coordinator; the hosts must see one folder.
    """
    from simxrd_jax.commands.train import result_text, show_config, train_config

    if only_list:
        click.echo(show_config(config, settings))
        return
    hosts = _chosen_hosts(host_count, host_index, coordinator)
    click.echo(result_text(train_config(config, settings, output, hosts=hosts, say=_say)["test"]))


@cli.command(epilog=EVALUATE_EXAMPLES, context_settings=CONTEXT)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@_option("--on", metavar="SPLIT[:PART]|PATTERNS", help="A split of the library, or measured patterns.  [required]")
@_option("--library", metavar="LIB.simxrd", help="Structures of the split (default: those of the run).")
@_option("--limit", type=int, metavar="N", help="Structures of a split at most (default: all).")
@_option("-o", "--output", metavar="OUT.json", help="Write all metrics.")
def evaluate(runs: tuple[str, ...], on: str | None, **given: Any) -> None:
    """Evaluate a trained network, or the average of several, on simulated or measured patterns.

    SPLIT is in_library, ool_published, ool_random or ool_disjoint, PART train, validation or test (default). PATTERNS is the
    name of a set (measured, which is bundled; rruff908, rruff90_xred, xred beside the repository) or a path.
    """
    from simxrd_jax.commands.train import evaluate_runs

    if on is None:
        raise click.UsageError("say with --on what to evaluate on, such as ool_disjoint or measured")
    click.echo(evaluate_runs(runs, on, **{name: value for name, value in given.items() if value is not None}))


@cli.command(epilog=PREDICT_EXAMPLES, context_settings=CONTEXT)
@click.argument("runs", nargs=-1, required=True, metavar="RUN... PATTERN")
@_option("--wavelength", metavar="NAME|ANGSTROM", help="At which it was measured (default: as the file states, else CuKa).")
@_option("--scan", type=int, metavar="N", help="Which scan of the file, from 1 (default: all of one range, added up).")
@_option("--top", "count", type=int, metavar="N", help="How many classes to name (default: 5).")
def predict(runs: tuple[str, ...], **given: Any) -> None:
    """Name the most probable space groups of a measured pattern.

    The pattern is text (.xy, .xye, .csv) or a diffractometer's file, as for refine. It is brought to the network's wavelength
    and grid, background and K-alpha2 left in. Several runs are averaged.
    """
    from simxrd_jax.commands.train import predict_pattern

    *folders, pattern = runs
    if not folders:
        raise click.UsageError("name the folder of a run, then the pattern")
    click.echo(predict_pattern(folders, pattern, **{name: value for name, value in given.items() if value is not None}))


@cli.command(epilog=REFINE_EXAMPLES, context_settings=CONTEXT)
@click.argument("data", nargs=-1, required=True, metavar="DATA...")
@click.option("--phase", "phases", multiple=True, metavar="[NAME=]FILE.cif", help="A phase; may be given again.  [required]")
@_option(
    "--instrument",
    metavar="FILE|PRESET",
    help="GSAS .instprm or .prm, or JSON: its Gaussian width is then held; or bragg-brentano, bragg-brentano-graphite, "
    "bragg-brentano-ka1, capillary-mo, capillary-mo-ka1.",
)
@_option("--wavelength", metavar="NAME|ANGSTROM", help="CuKa, CuKa1, ... or a number (default: what the files state).")
@_option("--range", "limits", nargs=2, type=float, metavar="LO HI", help="Of 2theta in degrees (default: all points).")
@_option("--scan", type=int, metavar="N", help="Which scan of a file, from 1 (default: all of one range, added up).")
@click.option(
    "--exclude", "excluded", nargs=2, type=float, multiple=True, metavar="LO HI", help="A range that does not count."
)
@click.option("--free", multiple=True, metavar="GLOB", help="Refine these too, in a last stage; @GROUP is a group.")
@click.option("--fix", "fixed", multiple=True, metavar="GLOB", help="Hold these in all stages.")
@_option("--plan", metavar="NAME|FILE.json", help="default, profile (no sites), cell (no widths), or stages of your own.")
@click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="Start value of a parameter, see --list.")
@click.option("--bound", "bounds", multiple=True, metavar="GLOB=LO:HI", help="Keep values within an interval.")
@click.option("--tie", "ties", multiple=True, metavar="GLOB=[FACTOR*]NAME", help="Let values follow another.")
@click.option("--restrain", "restraints", multiple=True, metavar="GLOB=VALUE:SIGMA", help="What is known of values.")
@_option("--background", type=click.IntRange(1, 36), metavar="N", help="Chebyshev terms (default: 8).")
@_option("--geometry", type=click.Choice(["flat", "capillary"]), help="What moves lines: height or zero (default: flat).")
@click.option(
    "--hump", "humps", nargs=2, type=float, multiple=True, metavar="POS FWHM", help="A hump in the background (deg)."
)
@click.option("--texture", "textures", multiple=True, metavar="PHASE=h,k,l", help="Preferred orientation of a phase.")
@click.option("--harmonics", multiple=True, metavar="PHASE=ORDER", help="The same by spherical harmonics of orders to 12.")
@click.option("--stephens", multiple=True, metavar="PHASE", help="Microstrain of a phase depends on direction.")
@click.option(
    "--grain-diameter",
    "diameters",
    multiple=True,
    metavar="PHASE=UM",
    help="For weight fractions after Brindley (micrometres).",
)
@click.option("--symmetric", is_flag=True, help="Peaks without the asymmetry of axial divergence.")
@click.option(
    "--mode",
    "modes",
    multiple=True,
    metavar="[PHASE=]MODE",
    help="rietveld, or lebail or pawley: intensities without a structure (default: rietveld).",
)
@_option("--starts", type=int, metavar="N", help="Refine each pattern from N drawn starts and keep the best (default: 1).")
@_option("--spread", type=float, metavar="SHARE", help="By which starts vary the cell (default: 0.005); widths by 2.")
@_option("--seed", type=int, metavar="N", help="Of the starts (default: 0).")
@click.option("--sequential", is_flag=True, help="Start each pattern from the result of the one before.")
@_option("--batch", type=int, metavar="N", help="Patterns, or starts, fitted in one call (default: 1).")
@click.option("--resume", is_flag=True, help="Go on with a series: results that are there stay.")
@click.option("--list", "only_list", is_flag=True, help="List the parameters, and do nothing else.")
@_option("-o", "--output", metavar="DIR", help="Folder of the results.  [required]")
@click.pass_context
def refine(
    context: click.Context, data: tuple[str, ...], resume: bool, only_list: bool, output: str | None, **given: Any
) -> None:
    """Refine crystal structures against measured powder patterns (Rietveld, Le Bail, Pawley).

    The folder gets a page (report.html), numbers (result.json), the pattern (pattern.xy), a CIF of each phase, all as pdCIF
    (refinement.cif), fit.png and instrument.json. Several patterns get a folder each and one table, results.csv and .html; one
    that fails stops no other. Uncertainties are scaled by the goodness of fit.
    """
    from simxrd_jax.commands import refine_setup as setup
    from simxrd_jax.commands.refine import refine_files
    from simxrd_jax.refine.constraints import parse_bounds

    if not given["phases"]:
        raise click.UsageError("name at least one structure with --phase FILE.cif")
    chosen = {name: value for name, value in given.items() if value is not None}
    chosen["axial"] = not chosen.pop("symmetric")
    chosen["values"] = setup.parse_values(chosen["values"])
    chosen["bounds"] = parse_bounds(chosen["bounds"])
    chosen["textures"] = setup.parse_textures(chosen["textures"])
    chosen["harmonics"] = setup.parse_numbers(chosen["harmonics"], "--harmonics", "brucite=4", int)
    chosen["diameters"] = setup.parse_numbers(chosen["diameters"], "--grain-diameter", "magnetite=5")
    chosen["modes"] = setup.parse_modes(chosen["modes"])
    options = setup.Options(**chosen)
    if only_list:
        click.echo(setup.list_parameters(data[0], options))
        return
    if output is None:
        raise click.UsageError("name a folder for the results with -o")
    if refine_files(data, options, output, resume=resume, say=_say):
        context.exit(1)


@cli.group(context_settings=CONTEXT)
def library() -> None:
    """Libraries: many structures in one file, ready for training."""


@library.command("build", epilog=BUILD_EXAMPLES, context_settings=CONTEXT)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@_option("-o", "--output", metavar="LIB.simxrd", help="The library to write.  [required]")
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar="NAME",
    help="Serve this preset; may be given several times (default: laboratory and simxrd).",
)
@_option("--symprec", type=float, metavar="ANGSTROM", help="Tolerance of the structures' symmetry (default: 0.01).")
@_option("--form-factors", type=click.Choice(["it92", "waasmaier"]), help="Table of f0 (default: it92).")
@click.option("--no-dispersion", is_flag=True, help="Leave out f' and f''.")
@_option("--workers", type=int, metavar="N", help="Processes (default: one for each processor).")
@_option("--limit", type=int, metavar="N", help="Only the first N structures.")
@click.option("--overwrite", is_flag=True, help="Replace LIB.simxrd once the new one is complete.")
def build_command(sources: tuple[str, ...], output: str | None, no_dispersion: bool, **given: Any) -> None:
    """Build a library from structures.

    A SOURCE is a folder of CIFs (searched with its subfolders), a CIF, an ASE database (.db), pymatgen structures as JSON
    (.json, .jsonl, .json.gz) or an npz set. Bad structures are skipped and listed. A build that is interrupted goes on where
    it was when the same command is given again.
    """
    from simxrd_jax.commands.library import build_file

    if output is None:
        raise click.UsageError("name the library to write with -o LIB.simxrd")
    chosen = {name: value for name, value in given.items() if value is not None}
    build_file(sources, output, dispersion=not no_dispersion, say=_say, **chosen)


@library.command("info", epilog=INFO_EXAMPLES, context_settings=CONTEXT)
@click.argument("path", metavar="LIB.simxrd")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@_option("--plot", metavar="PLOT.png", help="Draw the long tail of the space groups (.png, .pdf, .svg or .jpg).")
@click.option("--skipped", is_flag=True, help="List the structures that the build skipped, with reasons.")
def info_command(path: str, as_json: bool, plot: str | None, skipped: bool) -> None:
    """Say what a library holds: classes, sizes, labels, splits and their baselines."""
    from simxrd_jax.commands.library import show_info

    click.echo(show_info(path, as_json=as_json, plot=plot, skipped=skipped))


@library.command("show", epilog=SHOW_EXAMPLES, context_settings=CONTEXT)
@click.argument("path", metavar="LIB.simxrd")
@_option("-n", "count", type=int, metavar="N", help="How many patterns, 1 to 60 (default: 12).")
@_option("--preset", metavar="NAME", help="Draw conditions from this preset, see `simxrd presets` (default: laboratory).")
@_option("-o", "--output", metavar="SHEET.png", help="Draw the patterns (.png, .pdf, .svg or .jpg; default: only the list).")
@_option("--split", metavar="NAME", help="Sample a part of this split, see `simxrd library info` (default: every structure).")
@_option("--part", type=click.Choice(["train", "validation", "test"]), help="Which part (default: train).")
@_option(
    "--sampling",
    type=click.Choice(["balanced", "uniform", "square_root"]),
    help="Over space groups evenly, over structures evenly, or between the two (default: balanced).",
)
@_option("--mode", type=click.Choice(["cached", "atoms"]), help="Take |F|^2 from the library or its atoms (default: cached).")
@_option("--seed", type=int, metavar="N", help="Of structures, conditions and noise (default: 0).")
@_option(
    "--scale",
    type=click.Choice(["maximum", "square_root", "log", "area"]),
    help="Of the patterns, as a network is given them (default: maximum).",
)
def show_command(path: str, output: str | None, **given: Any) -> None:
    """Sample patterns as training does: a picture of them, and a list of their labels and seeds."""
    from simxrd_jax.commands.library import SheetOptions, show_sheet

    chosen = {name: value for name, value in given.items() if value is not None}
    click.echo(show_sheet(path, SheetOptions(**chosen), output=output))


def _numbers(value: Any) -> str:
    return ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value:g}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _say(sentence: str) -> None:
    click.echo(f"simxrd: {sentence}", err=True)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point. Exit codes: 0 done, 1 bad input, 2 wrong usage, 130 interrupted."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = cli.main(args=None if arguments is None else list(arguments), prog_name="simxrd", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except InputError as error:
        _say(str(error))
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader has gone; Python would complain when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        _say(NO_MEMORY)
        return 1
    except (RuntimeError, AssertionError) as error:  # as JAX reports what the device lacks
        if (sentence := device_error(error)) is None:
            raise
        _say(sentence)
        return 1
