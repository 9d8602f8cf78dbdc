"""Rules that reach across the fields of a job. Each yields what breaks it; all are told together."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.yaml import Path
from gmml_cluster.spec.methods.options import GmmlOptions, MaeOptions, grid_step, kept_patches, longest_side
from gmml_cluster.spec.methods.reach import CANDIDATES, SPREAD, reach

PATCH = ("model", "patch_size")
IMAGE = ("data", "image_size")
GROUP = ("data", "group")
BATCH = ("batch", "size")
LANES = ("data", "lanes")
CORPORA = ("data", "corpora")
NODES = ("resources", "nodes")
ALIGN = ("method", "align")
MAX_SIDE = ("method", "max_side")
RATIOS = (("method", "noise_ratio"), ("method", "alien_ratio"))
METHOD = ("method", "name")


@dataclass(frozen=True)
class Broken:
    """A rule that a job breaks.

    Attributes:
        field: the field to change.
        message: what is wrong, the rule, the cure.
        uses: the fields that the rule reads.
    """

    field: Path
    message: str
    uses: frozenset[Path]

    def touches(self, paths: Collection[Path]) -> bool:
        """Whether it reads one of these fields, or something inside one."""
        return any(used[: len(path)] == path for used in self.uses for path in paths)


def _broken(field: Path, message: str, *others: Path) -> Broken:
    return Broken(field, message, frozenset([field, *others]))


def broken_rules(job: JobSpec) -> list[Broken]:
    """All rules that a job breaks."""
    rules = (_patches_fill_image, _groups_fill_batch, _whole_groups, _lanes_suffice_for_corpora, _nodes, _gmml, _mae)
    return [broken for rule in rules for broken in rule(job)]


def group_of(job: JobSpec) -> int:
    """Samples of a group, `auto` settled by the method's advice."""
    return job.method.advised_group if job.data.group == "auto" else job.data.group


def _nearest_multiple(number: int, of: int) -> int:
    return max(round(number / of), 1) * of


def _patches_fill_image(job: JobSpec) -> Iterator[Broken]:
    size, patch = job.data.image_size, job.model.patch_size
    if size % patch:
        cure = f"write {_nearest_multiple(size, patch)}, or another model.patch_size"
        yield _broken(IMAGE, f"{size} is no multiple of the patch of {patch}; {cure}", PATCH)


def _groups_fill_batch(job: JobSpec) -> Iterator[Broken]:
    batch, group, lanes = job.batch.size, group_of(job), job.data.lanes
    if batch % group:
        cure = f"write {_nearest_multiple(batch, group)}, or another data.group"
        yield _broken(BATCH, f"{batch} is no multiple of the group of {group}; {cure}", GROUP)
    elif lanes != "auto" and batch % (group * lanes):
        near = max(each for each in range(1, min(lanes, batch // group) + 1) if batch // group % each == 0)
        told = f"{lanes} lanes of groups of {group} do not divide the batch of {batch}; write {near}, or auto"
        yield _broken(LANES, told, BATCH, GROUP)


def _lanes_suffice_for_corpora(job: JobSpec) -> Iterator[Broken]:
    groups, lanes, corpora = job.batch.size // group_of(job), job.data.lanes, len(job.data.corpora)
    rule = f"for {corpora} corpora; each corpus needs a lane; raise it"
    if lanes == "auto" and 0 < groups < corpora:
        yield _broken(BATCH, f"{groups} groups a step {rule}, lower data.group, or drop corpora", GROUP, CORPORA, LANES)
    if lanes != "auto" and lanes < corpora:
        yield _broken(LANES, f"{lanes} lanes {rule}, or drop corpora", CORPORA)


def _whole_groups(job: JobSpec) -> Iterator[Broken]:
    group = group_of(job)
    for field, number in ((("data", "window"), job.data.window), (("batch", "micro"), job.batch.micro)):
        if number != "auto" and number % group:
            cure = f"write {_nearest_multiple(number, group)}, or auto"
            yield _broken(field, f"{number} is no multiple of the group of {group}; {cure}", GROUP)


def _nodes(job: JobSpec) -> Iterator[Broken]:
    """What the profile adds, ranks of a node, only makes it worse: the plan judges that."""
    lanes, least = job.data.lanes, job.resources.nodes.least
    most, name = (job.batch.size // group_of(job), "groups a step") if lanes == "auto" else (lanes, "lanes")
    if least > most > 0:
        told = f"{least} nodes of at least one rank each have more ranks than {most} {name}; a rank needs a lane"
        cure = f"write {most} at most, or raise batch.size or data.lanes"
        yield _broken(NODES, f"{told}; {cure}", BATCH, GROUP, LANES)


def _gmml(job: JobSpec) -> Iterator[Broken]:
    options = job.method
    if not isinstance(options, GmmlOptions):
        return
    size, depth = job.data.image_size, job.model.depth
    step, longest = grid_step(options, job.model), longest_side(options, size)
    written = [path for path in (MAX_SIDE, ALIGN) if path[1] in options.model_fields_set]
    blamed, uses = (written or [IMAGE])[0], (METHOD, ALIGN, IMAGE, PATCH, MAX_SIDE, *RATIOS)
    if size % step:
        rule, cure = "the step divides the image", "choose another align, or other images"
        told = f"a mask grid of steps of {step} pixels does not fit images of {size}; {rule}; {cure}"
        yield _broken(ALIGN if ALIGN in written else IMAGE, told, *uses)
    elif step >= longest or reach(size, step, longest) < _wanted(options):
        share = f"{CANDIDATES} rectangles of sides below {longest} pixels, in steps of {step}, cannot hide"
        most = max(options.noise_ratio, options.alien_ratio)
        told = f"{share} {most:.0%} of images of {size} pixels; {_side_cure(options, size, step)}"
        yield _broken(blamed, told, *uses)
    if options.taps is not None and (
        sorted(set(options.taps)) != list(options.taps) or options.taps[0] < 1 or options.taps[-1] != depth
    ):
        rule = f"blocks ascend from 1 and end with the last, {depth}, or some would never be trained"
        told = f"{list(options.taps)} does not fit; {rule}; mend the list"
        yield _broken(("method", "taps"), told, METHOD, ("model", "depth"))
    if options.alien_ratio and group_of(job) < 2 and not options.self_donor:
        told = f"{group_of(job)} is too few; GMML takes pixels from another image of the group; write at least 2"
        yield _broken(GROUP, told, METHOD, ("method", "alien_ratio"), ("method", "self_donor"))


def _wanted(options: GmmlOptions) -> float:
    """What all candidates together have to hide, so that in practice no view falls short."""
    return max(options.noise_ratio, options.alien_ratio) + SPREAD


def _side_cure(options: GmmlOptions, size: int, step: int) -> str:
    sides = [percent / 100 for percent in range(1, 101)]
    least = next((side for side in sides if _suffices(options, size, step, int(side * size))), None)
    smaller = "" if step == 1 else "a smaller method.align, "
    side = "" if least is None else f"method.max_side of {least} or more, "
    return f"take {side}{smaller}or lower method.noise_ratio and alien_ratio"


def _suffices(options: GmmlOptions, size: int, step: int, longest: int) -> bool:
    return longest > step and reach(size, step, longest) >= _wanted(options)


def _mae(job: JobSpec) -> Iterator[Broken]:
    options = job.method
    if not isinstance(options, MaeOptions):
        return
    patches = (job.data.image_size // job.model.patch_size) ** 2
    kept = kept_patches(options, patches)
    ratio = ("method", "mask_ratio")
    if not 0 < kept < patches:
        cure = "some are kept and some removed; choose another mask_ratio, or more patches"
        told = f"a mask_ratio of {options.mask_ratio} keeps {kept} of {patches} patches; {cure}"
        yield _broken(ratio if ratio[1] in options.model_fields_set else IMAGE, told, METHOD, ratio, IMAGE, PATCH)
    if job.model.drop_path:
        told = f"{job.model.drop_path} does not fit; MAE drops no blocks; write 0 or leave it out"
        yield _broken(("model", "drop_path"), told, METHOD)
