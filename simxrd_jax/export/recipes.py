"""Host zone. Recipes: the simulated data sets that others published, as far as they are public, for structures of one's own.

A recipe gives the published number of patterns (of each structure, or in all) and conditions. Structures are the user's: most
of these sets were made from databases that may not be passed on. What is not public, or was not found, is said in `unknown`,
and what stands for it in `conditions`; nothing here claims to remake a set bit for bit.

Source of the counts: the table of data sets in the presentation of SimXRD-4M (B. Cao et al., ICLR 2025); the references are
those of the sets themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from simxrd_jax.conditions import nearest
from simxrd_jax.errors import InputError
from simxrd_jax.library.stream import Impurities
from simxrd_jax.presets import IDEAL, LABORATORY, SIMXRD, XRD_AUTOANALYZER, Preset, Uniform


@dataclass(frozen=True)
class Recipe:
    """A published data set.

    Attributes:
      name: as in `--recipe NAME`.
      reference: who published it, where.
      published: its size, and what it was made from.
      conditions: how its patterns are made here.
      unknown: what is not public or was not found, "" where nothing is missing.
      preset: of the patterns.
      per_structure: patterns of each structure, or None.
      count: patterns in all, or None.
      impurities: further phases, or None.
    """

    name: str
    reference: str
    published: str
    conditions: str
    unknown: str
    preset: Preset
    per_structure: int | None = None
    count: int | None = None
    impurities: Impurities | None = None


_RECIPES = (
    Recipe(
        name="xrdsp",
        reference="Suzuki et al. (2020), Sci. Rep. 10, 21790",
        published="169,536 patterns of 169,536 structures of the ICSD",
        conditions="one pattern of each structure, preset ideal",
        unknown="range and widths; the models were given positions of peaks, not profiles",
        preset=IDEAL,
        per_structure=1,
    ),
    Recipe(
        name="cnn-sr-li-al-o",
        reference="Lee, Park, Lee, Singh & Sohn (2020), Nat. Commun. 11, 86",
        published="1,785,405 mixtures of the patterns of 170 compounds in Sr-Li-Al-O of the ICSD",
        conditions="each structure with up to two others, 10 to 45 % by mass each, preset laboratory",
        unknown="range, widths, the steps of the phase fractions, and how many mixtures have two and three phases",
        preset=LABORATORY,
        count=1_785_405,
        impurities=Impurities(2, 0.75, Uniform(0.1, 0.45)),
    ),
    Recipe(
        name="pqnet",
        reference="Dong, Butler, Matras, Price, Odarchenko, Khatry, Thompson, Middelkoop, Jacques, Beale & Vamvakeros (2021), "
        "npj Comput. Mater. 7, 74",
        published="250,000 patterns; scale factors, lattice parameters and crystallite sizes were to be found",
        conditions="preset laboratory: it varies the cell and the size; give a library of the phases in question",
        unknown="wavelength, range and the bounds of the parameters",
        preset=LABORATORY,
        count=250_000,
    ),
    Recipe(
        name="xrd-autoanalyzer",
        reference="Szymanski, Bartel, Zeng, Tu & Ceder (2021), Chem. Mater. 33, 4204",
        published="38,250 patterns: 150 of each of the 255 reference phases in Li-Mn-Ti-O-F that its repository names (the "
        "table lists 150 structures)",
        conditions="150 patterns of each structure; Cu K-alpha, 10 to 80 deg in 4,501 points, strain up to 3 %, domains 5 to "
        "30 nm, texture up to 50 %, as its repository states; build the library with --preset xrd-autoanalyzer",
        unknown="the instrument's width (here 0.1 deg) and the distribution of the texture (here that of SimXRD)",
        preset=XRD_AUTOANALYZER,
        per_structure=150,
    ),
    Recipe(
        name="xrd-is-all-you-need-icsd",
        reference="Lee, Lee, Kim, Lee, Park & Sohn (2022), Adv. Intell. Syst. 4, 2200042",
        published="189,476 patterns of as many structures of the ICSD, of 328,503 with those of the Materials Project",
        conditions="one pattern of each structure, preset laboratory",
        unknown="range, widths, background and noise",
        preset=LABORATORY,
        per_structure=1,
    ),
    Recipe(
        name="xrd-is-all-you-need-mp",
        reference="Lee, Lee, Kim, Lee, Park & Sohn (2022), Adv. Intell. Syst. 4, 2200042",
        published="139,027 patterns of as many structures of the Materials Project, of 328,503 with those of the ICSD",
        conditions="one pattern of each structure, preset laboratory",
        unknown="range, widths, background and noise",
        preset=LABORATORY,
        per_structure=1,
    ),
    Recipe(
        name="advanced-xrd-analysis",
        reference="Lee, Lee, Kim, Lee, Park & Sohn (2023), Adv. Intell. Syst. 5, 2300140",
        published="29,569,650 patterns, 150 of each of 197,131 structures of the ICSD",
        conditions="150 patterns of each structure, preset laboratory",
        unknown="the perturbations and their ranges",
        preset=LABORATORY,
        per_structure=150,
    ),
    Recipe(
        name="crystinet",
        reference="Chen et al. (2024), An extensible deep learning framework for identifying crystal structure types",
        published="100 patterns of 100 structure types by the table; its repository names the types and shows examples",
        conditions="one pattern of each structure, preset ideal",
        unknown="the simulated patterns are given on request only; range, widths and augmentation",
        preset=IDEAL,
        per_structure=1,
    ),
    Recipe(
        name="cpicann",
        reference="Zhang, Cao, Su, Wu, Feng, Xiong & Zhang (2024), IUCrJ 11, 634-642",
        published="692,190 patterns, 30 of each of 23,073 structures of the COD",
        conditions="30 patterns of each structure, preset simxrd: the later script of the same group",
        unknown="the ranges of its own simulation",
        preset=SIMXRD,
        per_structure=30,
    ),
    Recipe(
        name="simxrd-4m",
        reference="Cao et al. (2025), SimXRD-4M, ICLR; arXiv 2406.15469",
        published="4,065,346 patterns, 34 of each of 119,569 structures of the Materials Project: 30 to train, 1 to validate, "
        "2 to test, 1 without a label",
        conditions="34 patterns of each structure, preset simxrd: the public script's ranges on correct physics; the 30 come "
        "first, then 1, 2 and 1",
        unknown="the program that made the released set; displacements there go beyond the script's 0.3 A",
        preset=SIMXRD,
        per_structure=34,
    ),
)
RECIPES = {recipe.name: recipe for recipe in _RECIPES}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
      InputError: there is none; the nearest names are offered.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}{nearest(name, RECIPES)}")
    return RECIPES[name]
