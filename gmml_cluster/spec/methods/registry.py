"""The methods that a job may name: those built in, and those of the plug-ins installed here."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args

from pydantic import Field

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.spec.base import SpecModel
from gmml_cluster.spec.methods.attentive import AttentiveOptions
from gmml_cluster.spec.methods.capi import CapiOptions
from gmml_cluster.spec.methods.conmim import ConmimOptions
from gmml_cluster.spec.methods.finetune import FinetuneOptions
from gmml_cluster.spec.methods.gmml import GmmlOptions
from gmml_cluster.spec.methods.ijepa import IjepaOptions
from gmml_cluster.spec.methods.linear import LinearOptions
from gmml_cluster.spec.methods.mae import MaeOptions
from gmml_cluster.spec.methods.plugins import OPTIONS, claims
from gmml_cluster.spec.methods.relvit import RelVitOptions
from gmml_cluster.spec.methods.segmentation import SegmentationOptions
from gmml_cluster.spec.methods.simmim import SimmimOptions
from gmml_cluster.spec.methods.supervised import SupervisedOptions

FIRST_PURPOSE = 256
"""Purposes of draws from here on belong to plug-ins; docs/reference/draws.md."""
_REQUIRED = ("name", "views", "advised_group", "counts", "purposes")


def plug_ins() -> list[type[SpecModel]]:
    """Classes of options of the plug-ins, in the order of their names.

    Raises:
        SpecError: one cannot be used, or two draw for one purpose.
    """
    found = {name: _options(entry) for name, entry in sorted(claims(OPTIONS).items())}
    owners: dict[int, str] = {}
    for name, options in found.items():
        for purpose in sorted(options.purposes):  # type: ignore[attr-defined]
            other = "this project" if purpose < FIRST_PURPOSE else owners.get(purpose, "")
            if other:
                rule = f"plug-ins have those from {FIRST_PURPOSE} up, each its own"
                problem = f"{name!r} draws for purpose {purpose}, which belongs to {other}; {rule}"
                raise SpecError(Fault("method.name", problem, "uninstall it, or let it take another"))
            owners[purpose] = name
    return list(found.values())


def _options(entry: EntryPoint) -> type[SpecModel]:
    try:
        found: Any = entry.load()
    except Exception as error:
        problem = f"{entry.value}: {type(error).__name__}: {error}; it offers the method {entry.name!r}"
        raise SpecError(Fault("method.name", problem, "fix or uninstall its package")) from error
    if not isinstance(found, type) or not issubclass(found, SpecModel):
        raise _unfit(entry, "is no subclass of gmml_cluster.spec.base.SpecModel")
    missing = [name for name in _REQUIRED if name not in found.model_fields and not hasattr(found, name)]
    if missing:
        raise _unfit(entry, f"lacks {', '.join(missing)}")
    if get_args(found.model_fields["name"].annotation) != (entry.name,):
        raise _unfit(entry, f'lacks the field `name: Literal["{entry.name}"]`')
    return found


def _unfit(entry: EntryPoint, lack: str) -> SpecError:
    return SpecError(Fault("method.name", f"{entry.value} {lack}", "docs/methods.md says what options must have"))


_OFFERED: tuple[type[SpecModel], ...] = (
    GmmlOptions,
    MaeOptions,
    SimmimOptions,
    ConmimOptions,
    CapiOptions,
    IjepaOptions,
    RelVitOptions,
    SupervisedOptions,
    FinetuneOptions,
    LinearOptions,
    AttentiveOptions,
    SegmentationOptions,
    *plug_ins(),
)

if TYPE_CHECKING:
    MethodOptions = (
        GmmlOptions
        | MaeOptions
        | SimmimOptions
        | ConmimOptions
        | CapiOptions
        | IjepaOptions
        | RelVitOptions
        | SupervisedOptions
        | FinetuneOptions
        | LinearOptions
        | AttentiveOptions
        | SegmentationOptions
    )
else:
    MethodOptions = Annotated[Union[_OFFERED], Field(discriminator="name")]  # noqa: UP007


def _offered(name: object) -> Any:
    """The class of a method's options; None for an unknown method."""
    return next((each for each in _OFFERED if _name(each) == name), None)


def _name(options: type[SpecModel]) -> str:
    return str(get_args(options.model_fields["name"].annotation)[0])


def advised_drop_path(name: object) -> float | None:
    """The method's own `model.drop_path`, 0 if it has none; None for an unknown method."""
    options = _offered(name)
    return None if options is None else float(getattr(options, "advised_drop_path", 0.0))


def advised_group(name: object) -> int | None:
    """The method's `data.group` where that is `auto`; None for an unknown method."""
    options = _offered(name)
    return None if options is None else int(options.advised_group)


def recipe_of(name: object) -> Mapping[str, Any]:
    """A method's own values of fields whose defaults are GMML's, by dotted name; empty for GMML and unknown names."""
    recipe: Mapping[str, Any] = getattr(_offered(name), "recipe", {})
    return recipe


def that_take_auxiliary() -> list[str]:
    """Names of the methods beside whose loss relations of patches can be learned."""
    return sorted(_name(options) for options in _OFFERED if getattr(options, "takes_auxiliary", False))


def mask_table_of(options: SpecModel) -> tuple[int, ...] | None:
    """The class of each value of a mask, where a method's batches carry masks."""
    return getattr(options, "mask_table", None)


def wants_labels(options: SpecModel) -> bool:
    """Whether a method's batches carry classes."""
    return bool(getattr(options, "labels", False))
