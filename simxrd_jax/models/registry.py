"""Host zone. The models by name: a card each, what makes them, how many parameters they have.

The published 21 come in two variants:
"as_published", with the faults of the published code, which the docstrings of the networks name, and "corrected", the same
network without them. References and the column "Ensemble" are those of the benchmark's table (B. Cao et al., ICLR 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from simxrd_jax.conditions import nearest
from simxrd_jax.errors import InputError
from simxrd_jax.models import convolutional
from simxrd_jax.models.attention import MODEL_LENGTH, ITransformer, PatchTST, Transformer
from simxrd_jax.models.classifier import Classifier
from simxrd_jax.models.perceptron import Perceptron
from simxrd_jax.models.powdernet import PowderNet
from simxrd_jax.models.recurrent import RecurrentNetwork

VARIANTS = ("as_published", "corrected")
CRYSTAL_SYSTEMS = 7
SPACE_GROUPS = 230  # outputs of the space-group task

Make = Callable[..., nnx.Module]
Classes = int | Mapping[str, int]  # of the one output, or of each of several heads


@dataclass(frozen=True)
class ModelCard:
    """What the registry knows of a model.

    Attributes:
      name: that `create_model` takes.
      title: as the benchmark prints it.
      reference: author, year.
      make: called with num_classes=, variant=, dtype= and rngs=, returns the model.
      widths: hidden widths for crystal systems (7 classes or fewer) and for space groups (more), where they differ.
      ensemble: whether the benchmark's table ticks "Ensemble"; a single network is trained there and here all the same.
      variants: that it comes in.
    """

    name: str
    title: str
    reference: str
    make: Make
    widths: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    ensemble: bool = False
    variants: tuple[str, ...] = VARIANTS


CNN1_WIDTHS = ((700, 70), (2300, 1150))
CNN8_WIDTHS = ((64,), (256,))
CNN8_RATES = ((0.2, 0.4), (0.05, 0.05))


def _published(
    network: Callable[..., Any], *, length: int | None = None, softmaxes: int = 0, has_variants: bool = False
) -> Make:
    """Makes a published model: a network in its frame, with the softmaxes of the published code where they are asked for."""

    def make(*, num_classes: Classes, variant: str, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise InputError(f"a published model cannot have {num_classes!r} classes; give a whole number from 2")
        given: dict[str, Any] = {"variant": variant} if has_variants else {}
        taken = softmaxes if variant == "as_published" else 0
        return Classifier(network(num_classes, rngs=rngs, **given), length=length, softmaxes=taken, dtype=dtype)

    return make


def _of_task(num_classes: int) -> int:
    """0 for crystal systems, 1 for space groups."""
    return int(num_classes > CRYSTAL_SYSTEMS)


def _cnn1(num_classes: int, *, rngs: nnx.Rngs) -> nnx.Module:
    return convolutional.CNN1(num_classes, hidden=CNN1_WIDTHS[_of_task(num_classes)], rngs=rngs)


def _cnn8(num_classes: int, *, rngs: nnx.Rngs) -> nnx.Module:
    task = _of_task(num_classes)
    return convolutional.CNN8(num_classes, hidden=CNN8_WIDTHS[task][0], rates=CNN8_RATES[task], rngs=rngs)


def _powdernet(*, num_classes: Classes, variant: str, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    del variant  # there is one
    return PowderNet(num_classes, dtype=dtype, rngs=rngs)


def _recurrent(cell: str, directions: int) -> Make:
    def network(num_classes: int, *, rngs: nnx.Rngs) -> nnx.Module:
        return RecurrentNetwork(num_classes, cell=cell, directions=directions, rngs=rngs)

    return _published(network)


def _convolutional(number: int, reference: str, make: Make, **known: Any) -> ModelCard:
    return ModelCard(f"cnn{number}", f"CNN{number}", reference, make, **known)


_CARDS = (
    _convolutional(1, "Park et al., 2017", _published(_cnn1, length=10001, softmaxes=1), widths=CNN1_WIDTHS),
    _convolutional(2, "Lee et al., 2020", _published(convolutional.CNN2, length=4501, softmaxes=1)),
    _convolutional(3, "Lee et al., 2020", _published(convolutional.CNN3, length=4501, softmaxes=1)),
    _convolutional(4, "Wang et al., 2020", _published(convolutional.CNN4, length=2251, softmaxes=2)),
    _convolutional(5, "Maffettone et al., 2021", _published(convolutional.CNN5, softmaxes=1), ensemble=True),
    _convolutional(6, "Dong et al., 2021", _published(convolutional.CNN6, softmaxes=1)),
    _convolutional(7, "Szymanski et al., 2021", _published(convolutional.CNN7, length=4501, softmaxes=1), ensemble=True),
    _convolutional(8, "Lee et al., 2022", _published(_cnn8, length=8192, softmaxes=1), widths=CNN8_WIDTHS),
    _convolutional(9, "Le et al., 2023", _published(convolutional.CNN9)),
    _convolutional(10, "Le et al., 2023", _published(convolutional.CNN10)),
    _convolutional(11, "Salgado et al., 2023", _published(convolutional.CNN11, length=8500)),
    ModelCard("mlp", "MLP", "Rumelhart et al., 1986", _published(Perceptron, softmaxes=2)),
    ModelCard("rnn", "RNN", "Elman, 1990", _recurrent("rnn", 1)),
    ModelCard("lstm", "LSTM", "Hochreiter & Schmidhuber, 1997", _recurrent("lstm", 1)),
    ModelCard("gru", "GRU", "Cho et al., 2014", _recurrent("gru", 1)),
    ModelCard("birnn", "Bidirectional-RNN", "Schuster & Paliwal, 1997", _recurrent("rnn", 2)),
    ModelCard("bilstm", "Bidirectional-LSTM", "Schuster & Paliwal, 1997", _recurrent("lstm", 2)),
    ModelCard("bigru", "Bidirectional-GRU", "Schuster & Paliwal, 1997", _recurrent("gru", 2)),
    ModelCard("transformer", "Transformer", "Vaswani et al., 2017", _published(Transformer, has_variants=True)),
    ModelCard(
        "itransformer",
        "iTransformer",
        "Liu et al., 2024",
        _published(ITransformer, length=MODEL_LENGTH, has_variants=True),
    ),
    ModelCard("patchtst", "PatchTST", "Nie et al., 2023", _published(PatchTST, length=MODEL_LENGTH)),
    ModelCard("powdernet", "PowderNet", "this project", _powdernet, variants=("corrected",)),
)
MODELS: dict[str, ModelCard] = {card.name: card for card in _CARDS}


def model_names() -> tuple[str, ...]:
    """Names that `create_model` takes, in the order of the benchmark's table."""
    return tuple(MODELS)


def create_model(
    name: str, *, num_classes: Classes, variant: str = "corrected", dtype: Any = None, rngs: nnx.Rngs
) -> nnx.Module:
    """A model with initial weights, called as `model(patterns, dropout=key or None)`.

    Args:
      name: one of `model_names()`.
      num_classes: outputs, or for a model with several heads those of each by name. The hidden widths of CNN1 and CNN8 depend
        on the task: 7 classes or fewer take those of crystal systems, more those of space groups.
      variant: "as_published" or "corrected".
      dtype: of the arithmetic; None is that of the parameters, float32. With bfloat16 the parameters, the outputs, softmaxes
        and normalisation statistics stay float32.
      rngs: the source of the initial weights, `nnx.Rngs(params=seed)`.

    Returns:
      A module from intensities, 0 to 100 [batch, 3501], to [batch, num_classes]; see `classifier.Classifier`. Its state is
      parameters (`nnx.Param`) and, in CNN7, running statistics (`nnx.BatchStat`), nothing random.

    Raises:
      InputError: an unknown name, variant or type, or fewer than 2 classes.
    """
    card = _card(name)
    if variant not in card.variants:
        raise InputError(f"{name} has no variant {variant!r}; choose from {', '.join(card.variants)}")
    return card.make(num_classes=num_classes, variant=variant, dtype=_floating(dtype), rngs=rngs)


def parameter_count(name: str, *, num_classes: Classes, variant: str = "corrected") -> int:
    """Number of trained values of a model, from shapes alone; running statistics and fixed positions are not among them.

    Raises:
      InputError: as for `create_model`.
    """
    model = nnx.eval_shape(lambda: create_model(name, num_classes=num_classes, variant=variant, rngs=nnx.Rngs(params=0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _card(name: str) -> ModelCard:
    if name not in MODELS:
        close = nearest(str(name), MODELS)
        choices = "" if close.startswith("; choose") else f" The models are {', '.join(MODELS)}."
        raise InputError(f"there is no model {name!r}{close}{choices}")
    return MODELS[name]


def _floating(dtype: Any) -> Any:
    if dtype is None:
        return None
    try:
        chosen = jnp.dtype(dtype)
    except TypeError:
        chosen = None
    if chosen is None or not jnp.issubdtype(chosen, jnp.floating):
        raise InputError(f"{dtype!r} is no floating type to compute in; give float32, bfloat16 or None")
    return chosen
