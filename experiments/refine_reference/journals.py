"""Host zone. Refinements that journals have published, made again: seven patterns with the curve their authors calculated.

Each case starts from the published structure with the cell 0.1 % off, at the published wavelengths, with the published weights
and points, and frees what its paper states to have freed. A second fit with the same model and plan goes to the *published
calculated curve*: what it finds beside the paper's numbers is a difference of conventions (where a peak with asymmetry or
another aberration of position stands), and what the two fits find beside each other is agreement on the data.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from experiments.refine_reference.case import Case, Finding, FitRecord, Outcome, Tools
from simxrd_jax.constants import Radiation
from simxrd_jax.crystal.structure import CrystalStructure, from_atoms
from simxrd_jax.io.cif import B_PER_U, read_cif
from simxrd_jax.refine.build import InstrumentStart, Model, PhaseStart, make_model
from simxrd_jax.refine.fit import Refinement
from simxrd_jax.refine.plans import Plan, Stage, changed, cumulative

WORSE = 1.1  # times the published Rwp, at most
ESD = 3.0  # published standard uncertainties that cells may differ by
START = 1e-3  # share by which cells begin too long
BLUR = 0.3  # of the first stage, in which lines find each other. [deg]
# The doublet that GSAS and FullProf take for Cu K-alpha, and the angle of graphite (002) for it. [A], [deg]
DOUBLET = Radiation("CuKa", (1.54056, 1.54439), (1.0, 0.5))
GRAPHITE = 26.57
AXIAL = {"axial_source": 0.02, "axial_detector": 0.02}
LINES = ("@scale", "@background", "@cell")
WIDTHS = ("instrument.caglioti_w", "phases.*.grain_size", "phases.*.microstrain")
ZERO, DISPLACEMENT, ASYMMETRY = "instrument.zero_shift", "instrument.displacement", "instrument.axial_source"


@dataclasses.dataclass(frozen=True)
class Variant:
    """The fit with one thing otherwise: start values of parameters, which are then held, and why."""

    name: str
    held: dict[str, float]
    note: str


@dataclasses.dataclass(frozen=True)
class Paper:
    """A published refinement, and how it is made again.

    Attributes:
      entry: in TRUTH.json, which is the folder's name.
      phase: name of its phase.
      cell: axis -> published value and its standard uncertainty. [A, deg]
      n_parameters: refined in the paper.
      radiation: emission lines, or one wavelength. [A]
      instrument: start values.
      background: Chebyshev terms.
      position: aberration of position that is refined.
      steps: what is freed after cell, position, widths and asymmetry.
      widths: what is refined of the widths.
      others: further phases, with the folder of the data given.
      b_for_u: whether the CIF states B where it says U.
      texture_axis: of the phase, or None.
      start: values of other parameters, most of which stay.
      fixed: patterns of parameters that no stage moves.
      cell_note, rwp_note: a sentence on a difference, or "".
      variants: further fits.
    """

    entry: str
    phase: str
    cell: dict[str, tuple[float, float]]
    n_parameters: int
    radiation: Radiation | float
    instrument: dict[str, float]
    background: int
    position: str
    steps: dict[str, tuple[str, ...]]
    widths: tuple[str, ...] = WIDTHS
    others: Callable[[pathlib.Path], Sequence[PhaseStart]] = lambda data: ()
    b_for_u: bool = False
    texture_axis: tuple[float, float, float] | None = None
    start: dict[str, float] = dataclasses.field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    cell_note: str = ""
    rwp_note: str = ""
    variants: tuple[Variant, ...] = ()

    def model(self, structure: CrystalStructure, two_theta: np.ndarray, data: pathlib.Path) -> Model:
        """The model on the pattern's points."""
        if self.b_for_u:
            structure = dataclasses.replace(structure, biso=structure.biso / B_PER_U, notes=())
        return make_model(
            [PhaseStart(self.phase, expanded(structure, START), self.texture_axis), *self.others(data)],
            self.radiation,
            two_theta,
            instrument=InstrumentStart(self.instrument),
            background_terms=self.background,
        )

    def plan(self, held: Sequence[str] = ()) -> Plan:
        """Lines find each other, then position and widths, asymmetry, and what the paper freed of intensities."""
        steps = {
            "scale, background, cell": LINES,
            "position, widths": (self.position, *self.widths),
            "asymmetry": (ASYMMETRY,),
            **self.steps,
        }
        plan = cumulative(self.phase, steps)
        stages = (Stage(f"blurred by {BLUR:g} deg", LINES, blur=BLUR), *plan.stages)
        return changed(dataclasses.replace(plan, stages=stages), (), (*self.fixed, *held))

    def cells(self, fit: Refinement, of: str = "", note: str = "") -> list[Finding]:
        """The fitted cell beside the published one."""
        found = []
        for axis, (known, esd) in self.cell.items():
            value, sigma = fit[f"phases.{self.phase}.cell.{axis}"]
            holds = abs(value - known) <= ESD * esd
            bound = f"{ESD:g} published e.s.d. ({1e6 * ESD * esd / known:.0f} ppm)"
            first = not found
            found.append(Finding(f"{axis}{of} ({unit(axis)})", value, sigma, known, None, bound, holds, note if first else ""))
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """A measured pattern with its uncertainties and the published calculated one."""

    two_theta: np.ndarray
    observed: np.ndarray
    calculated: np.ndarray
    sigma: np.ndarray

    @property
    def rwp(self) -> float:
        """Of the published curve, with the same weights as ours."""
        difference = np.sum(np.square((self.observed - self.calculated) / self.sigma))
        return float(np.sqrt(difference / np.sum(np.square(self.observed / self.sigma))))


def read_profile(tools: Tools, paper: Paper) -> Profile:
    """Points of the *_ext file, whose columns TRUTH.json names; rows without a calculated intensity are left out."""
    truth = tools.truth(paper.entry)
    (path,) = (tools.data / paper.entry).glob("*_ext")
    table = np.genfromtxt(path)
    columns = dict(zip(truth["published"]["cols"].split("[")[0].split(), table[np.isfinite(table).all(axis=1)].T, strict=True))
    is_stated = truth["target"]["weights"].startswith("file")
    sigma = columns["weight"] ** -0.5 if is_stated else np.sqrt(np.maximum(columns["obs"], 1.0))
    return Profile(columns["2theta"], columns["obs"], columns["calc"], sigma)


def made_again(paper: Paper, tools: Tools) -> Outcome:
    """The fits of a paper and what they find."""
    profile, target = read_profile(tools, paper), tools.truth(paper.entry)["target"]["rwp"]
    (path,) = (tools.data / paper.entry).glob("*.combined.cif")
    model = paper.model(read_cif(path), profile.two_theta, tools.data)
    fit, record = tools.fit("measured", model, profile.observed, paper.plan(), sigma=profile.sigma, start=paper.start)
    curve, curve_record = tools.fit(
        "published curve", model, profile.calculated, paper.plan(), sigma=profile.sigma, start=paper.start
    )
    findings = [*fitness(fit, target, paper), Finding("Rwp of the published curve (%)", 100 * profile.rwp, known=100 * target)]
    findings += paper.cells(fit, note=paper.cell_note)
    for axis, (known, esd) in paper.cell.items():
        name = f"phases.{paper.phase}.cell.{axis}"
        holds = abs(curve[name][0] - fit[name][0]) <= ESD * esd
        bound = f"{ESD:g} published e.s.d. of ours"
        findings.append(Finding(f"{axis} of the published curve ({unit(axis)})", *curve[name], known, None, bound, holds))
    more, records = variants(tools, paper, model, profile.observed, profile.sigma)
    return Outcome((*findings, *more), (record, curve_record, *records), {"measured": fit, "published curve": curve})


def fitness(fit: Refinement, target: float, paper: Paper) -> list[Finding]:
    """Rwp and the number of parameters beside the paper's."""
    rwp = fit.agreement.rwp
    bound = f"<= {100 * WORSE * target:.2f}, {WORSE:g} times the published"
    return [
        Finding("Rwp (%)", 100 * rwp, None, 100 * target, None, bound, rwp <= WORSE * target, paper.rwp_note),
        Finding("parameters", fit.agreement.n_parameters, known=paper.n_parameters),
    ]


def variants(
    tools: Tools, paper: Paper, model: Model, observed: np.ndarray, sigma: np.ndarray
) -> tuple[list[Finding], list[FitRecord]]:
    """The further fits of a paper."""
    findings, records = [], []
    for variant in paper.variants:
        plan = paper.plan(tuple(variant.held))
        fit, record = tools.fit(variant.name, model, observed, plan, sigma=sigma, start={**paper.start, **variant.held})
        findings += paper.cells(fit, f", {variant.name}", variant.note)
        records.append(record)
    return findings, records


def unit(axis: str) -> str:
    """Of a cell parameter."""
    return "A" if axis in "abc" else "deg"


def expanded(structure: CrystalStructure, strain: float) -> CrystalStructure:
    """A structure whose cell is longer by a share."""
    return dataclasses.replace(structure, lattice=(1.0 + strain) * structure.lattice)


def face_centred(element: str, a: float, biso: float, more: Sequence[float] = (0.0,)) -> CrystalStructure:
    """A cubic element with atoms at the lattice points of a face-centred cell, and at those moved along its diagonal.

    Args:
      element: symbol.
      a: cell. [A]
      biso: displacement parameter. [A^2]
      more: shifts, (0, 1/4) for diamond.
    """
    centring = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    frac = np.concatenate([centring + shift for shift in more])
    contents = [((element, 1.0),)] * len(frac)
    return from_atoms(a * np.eye(3), frac, contents, 0.01, name=element, source=element, biso=np.full(len(frac), biso))


# Mg2Si at 100 K on an imaging plate at SPring-8 BL44B2 (CIF gw5052): polynomial of 12th degree, pseudo-Voigt, 32 parameters
# that are not listed. The published curve holds lines of silicon and aluminium. The plate stands across the polarization.
# Lines of the minor phases keep the microstrain that Mg2Si starts with.
MAGNESIUM_SILICIDE = Paper(
    entry="sync_Mg2Si_spring8",
    phase="Mg2Si",
    cell={"a": (6.334697, 0.00001)},
    n_parameters=32,
    radiation=0.49935,
    instrument={"polarization_fraction": 0.99, "caglioti_w": 0.0005, "axial_source": 0.01, "axial_detector": 0.01},
    background=13,
    position=ZERO,
    widths=("instrument.caglioti_w", "phases.*.grain_size", "phases.Mg2Si.microstrain"),
    steps={"sites": ("phases.Mg2Si.sites.*.biso",)},
    others=lambda data: (
        PhaseStart("Si", face_centred("Si", 5.43, 0.25, (0.0, 0.25)), values={"grain_size": 1000.0}),
        PhaseStart("Al", face_centred("Al", 4.034, 0.3), values={"grain_size": 1000.0}),
    ),
    cell_note="the published e.s.d. of 1.6 ppm is below what zero, asymmetry and cell share, as the fit to the published "
    "curve shows, which is as far from the text on the other side",
)

# KLaTiO4 (CIF wm2446): the CIF holds GSAS's file, which states all 60 parameters. Ours are the same but for V and GP, on which
# the fit hardly depends.
POTASSIUM_LANTHANUM_TITANATE = Paper(
    entry="lab_KLaTiO4_iucr",
    phase="KLaTiO4",
    cell={"a": (3.84155, 0.0001), "c": (13.4695, 0.0004)},
    n_parameters=60,
    radiation=Radiation("CuKa", (1.5405999, 1.54443), (1.0, 0.5)),
    instrument={**AXIAL, "monochromator_two_theta": GRAPHITE, "goniometer_radius": 240.0},
    background=36,
    position=ZERO,
    texture_axis=(0.0, 0.0, 1.0),
    steps={"texture": ("@texture",), "displacement parameters": ("*.sites.*.biso",), "sites": ("@coordinate",)},
    variants=(
        Variant(
            "published zero",
            {ZERO: 0.0729757},
            "GSAS's asymmetry moves lines otherwise than axial divergence does: the zero that it goes with gives the cell",
        ),
    ),
)

# LaInO3 (CIF sq1033): FullProf, six background coefficients, 30 parameters. The CIF states B in place of U.
LANTHANUM_INDATE = Paper(
    entry="lab_LaInO3_iucr",
    phase="LaInO3",
    cell={"a": (5.9404, 0.0001), "b": (8.2158, 0.0001), "c": (5.7229, 0.0001)},
    n_parameters=30,
    radiation=DOUBLET,
    instrument={**AXIAL, "monochromator_two_theta": GRAPHITE, "goniometer_radius": 185.0},
    background=6,
    position=ZERO,
    steps={"displacement parameters": ("*.sites.*.biso",), "sites": ("@coordinate",)},
    b_for_u=True,
    cell_note="the published cell is that of peaks placed by their maxima, as the fit with symmetric peaks shows",
    variants=(
        Variant(
            "symmetric peaks",
            {ASYMMETRY: 1e-3},
            "axial divergence, which the fit wants, moves the cell by 310 ppm",
        ),
    ),
)

# CdBiO2Cl (CIF br1340): a local DBWM, 40 parameters. Its curve has the published cell with a displacement; with a zero,
# 280 ppm more.
CADMIUM_BISMUTH_OXYCHLORIDE = Paper(
    entry="lab_CdBiO2Cl_iucr",
    phase="CdBiO2Cl",
    cell={"a": (7.5878, 0.0007), "b": (4.1397, 0.0004), "c": (6.0594, 0.0006), "beta": (101.529, 0.011)},
    n_parameters=40,
    radiation=DOUBLET,
    instrument={**AXIAL, "monochromator_two_theta": GRAPHITE, "goniometer_radius": 192.0},
    background=6,
    position=DISPLACEMENT,
    steps={"displacement parameters": ("*.sites.*.biso",), "sites": ("@coordinate",)},
)

# BaTiO3 (CIF ks5409): FullProf, 10 parameters, six background coefficients. The published curve has hardly any polarization
# factor (with the published B it gives a fraction of 0.98); with a tube's 0.5 the B come out at -0.7 A^2.
BARIUM_TITANATE = Paper(
    entry="lab_BaTiO3_iucr",
    phase="BaTiO3",
    cell={"a": (3.9946, 0.0006), "c": (4.0338, 0.0001)},
    n_parameters=10,
    radiation=DOUBLET,
    instrument={**AXIAL, "polarization_fraction": 1.0, "goniometer_radius": 173.0},
    background=6,
    position=ZERO,
    steps={"sites": ("@coordinate",)},
    cell_note="the CIF contradicts itself: its list of reflections is of a = 3.99236 and c = 4.0317 A, and so is its curve",
    rwp_note="neither model has the intensity between split lines that domain walls leave",
)

# AlPO4 at 593 K (CIF br1322): GSAS, 41 parameters. The published curve holds lines of corundum, as of a holder. Intensities
# are net, weights those of the counts.
ALUMINIUM_PHOSPHATE = Paper(
    entry="lab_AlPO4_593K_iucr",
    phase="AlPO4",
    cell={"a": (5.0976, 0.0003), "c": (8.3441, 0.0004)},
    n_parameters=41,
    radiation=1.54056,
    instrument={"axial_source": 0.01, "axial_detector": 0.01, "monochromator_two_theta": 27.3, "goniometer_radius": 217.5},
    background=12,
    position=ZERO,
    widths=("instrument.caglioti_?", "phases.*.grain_size"),
    others=lambda data: (PhaseStart("corundum", expanded(read_cif(data / "qpa_iucr_cpd/Al2O3.cif"), 2e-3)),),
    # Strain is in U.
    start={"phases.AlPO4.microstrain": 1e-6, "phases.corundum.microstrain": 1e-6},
    fixed=("phases.corundum.sites.*",),
    steps={"displacement parameters": ("*.sites.*.u??",), "sites": ("@coordinate",)},
    cell_note="at the stated wavelength the published curve too has a cell that is 400 ppm shorter than the one in the text; "
    "zero and displacement, alike within 15 to 90 deg, can make it up together, but the CIF states neither",
    rwp_note="the published Rwp leaves out points that are not positive; ours and that of the curve have all",
)


# RbNb2O5F (repository ozakary/data-RbM2O5F): FullProf, 15 parameters and 93 points of background that were held, split
# rubidium whose B is that of niobium. Ours have a tensor for niobium in place of a preferred orientation along [011], which
# has no effect on a cubic powder to first order.
RUBIDIUM_NIOBATE = Paper(
    entry="lab_RbNb2O5F_ozakary",
    phase="RbNb2O5F",
    cell={"a": (10.49561, 0.00006)},
    n_parameters=15,
    radiation=DOUBLET,
    instrument={**AXIAL, "goniometer_radius": 240.0},
    background=40,
    position=ZERO,
    widths=("instrument.caglioti_?", "phases.*.grain_size", "phases.*.microstrain"),
    steps={"displacement parameters": ("*.sites.*.biso", "*.sites.*.u??"), "sites": ("@coordinate",)},
    cell_note="the zero goes with the asymmetry: free, it takes 170 ppm of the cell; held at the published one, 26 ppm are "
    "left, beyond three published e.s.d. (17 ppm)",
    variants=(
        Variant("published zero", {ZERO: -0.0438}, "FullProf's asymmetry moves lines otherwise than axial divergence does"),
    ),
)
FIRST = 5.0985  # where the paper's range begins. [deg]


def rubidium_niobate(tools: Tools) -> Outcome:
    """RbNb2O5F from the structure model that the paper states; its calculated curve is not at hand."""
    paper = RUBIDIUM_NIOBATE
    folder = tools.data / paper.entry
    two_theta, observed = np.loadtxt(folder / "RbNb2O5F.dat").T
    inside = two_theta >= FIRST
    model = paper.model(split_rubidium(read_cif(folder / "RbNb2O5F_start.cif")), two_theta[inside], tools.data)
    sigma = np.sqrt(observed[inside])
    fit, record = tools.fit("measured", model, observed[inside], paper.plan(), sigma=sigma)
    more, records = variants(tools, paper, model, observed[inside], sigma)
    findings = (
        *fitness(fit, tools.truth(paper.entry)["target"]["rwp"], paper),
        *paper.cells(fit, note=paper.cell_note),
        *more,
    )
    return Outcome(findings, (record, *records), {"measured": fit})


def split_rubidium(start: CrystalStructure) -> CrystalStructure:
    """The start model with a quarter of rubidium at (x, x, x), x = 0.396, anions at x = 0.3194, and a tensor for niobium."""
    rubidium, niobium, *anions = range(len(start.species))
    frac, occupancy, biso = start.frac.copy(), start.occupancy.copy(), start.biso.copy()
    frac[rubidium], occupancy[rubidium] = 0.396, 0.25
    frac[anions, 0] = 0.3194
    u_aniso = np.zeros((len(frac), 3, 3))
    u_aniso[niobium], biso[niobium] = biso[niobium] / B_PER_U * np.eye(3), 0.0
    return dataclasses.replace(start, frac=frac, occupancy=occupancy, biso=biso, u_aniso=u_aniso)


PAPERS = (
    MAGNESIUM_SILICIDE,
    POTASSIUM_LANTHANUM_TITANATE,
    LANTHANUM_INDATE,
    CADMIUM_BISMUTH_OXYCHLORIDE,
    BARIUM_TITANATE,
    ALUMINIUM_PHOSPHATE,
)
CASES: dict[str, Case] = {
    **{paper.phase: functools.partial(made_again, paper) for paper in PAPERS},
    RUBIDIUM_NIOBATE.phase: rubidium_niobate,
}
