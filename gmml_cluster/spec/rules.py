"""Rules across the fields of a job. Each yields what breaks it, so that all are reported together."""

from collections.abc import Iterator

from gmml_cluster.spec.broken import GROUP, IMAGE, METHOD, PATCH, Broken, broken
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.registry import mask_table_of, that_take_auxiliary, wants_labels
from gmml_cluster.wording import counted

BATCH = ("batch", "size")
LANES = ("data", "lanes")
ALIGNED = ("data", "augment", "aligned")
WEAK = ("data", "augment", "weak_first")
MEGA = ("data", "augment", "mega", "blocks")
CORPORA = ("data", "corpora")
NODES = ("resources", "nodes")


def broken_rules(job: JobSpec) -> list[Broken]:
    """All rules that a job breaks, those of its method among them."""
    rules = (
        _patches_fill_image,
        _fewer_mega_patches,
        _views_fit_method,
        _groups_fill_batch,
        _whole_groups,
        _lanes_suffice_for_corpora,
        _nodes,
        _begins_somewhere,
        _lars_alone,
        _auxiliary_has_tokens,
        _scores_mean_something,
        _masks_follow_views,
        _of_method,
    )
    return [found for rule in rules for found in rule(job)]


def group_of(job: JobSpec) -> int:
    """Samples of a group; `auto` is what the method advises."""
    return job.method.advised_group if job.data.group == "auto" else job.data.group


def view_size(job: JobSpec) -> int:
    """Side in pixels of a view as the encoder sees it."""
    mega = job.data.augment.mega
    return job.data.image_size if mega is None else mega.blocks * job.model.patch_size


def _nearest_multiple(number: int, of: int) -> int:
    return max(round(number / of), 1) * of


def _patches_fill_image(job: JobSpec) -> Iterator[Broken]:
    size, patch = job.data.image_size, job.model.patch_size
    if size % patch:
        hint = f"write {_nearest_multiple(size, patch)}, or another model.patch_size"
        yield broken(IMAGE, f"{size} is no multiple of the patch of {patch}", hint, PATCH)


def _fewer_mega_patches(job: JobSpec) -> Iterator[Broken]:
    mega, grid = job.data.augment.mega, job.data.image_size // job.model.patch_size
    if mega is not None and not getattr(job.method, "takes_mega", False):
        problem = f"{mega.blocks} blocks a row; its encoder, used later on whole images, has a position for each patch"
        yield broken(MEGA, problem, "leave mega out, or choose relvit without position_embeddings", METHOD)
    elif mega is not None and mega.blocks >= grid:
        problem = f"{mega.blocks} blocks a row; they are put together of the {grid} patches of a row"
        yield broken(MEGA, problem, "write fewer", IMAGE, PATCH)


def _views_fit_method(job: JobSpec) -> Iterator[Broken]:
    augment, name = job.data.augment, job.method.name
    if getattr(job.method, "needs_aligned", False) and not augment.aligned:
        problem = f"false; {name} compares two views patch by patch"
        yield broken(ALIGNED, problem, "write true, or data.augment: conmim", METHOD)
    if augment.weak_first and job.method.views == 1:
        problem = f"true; {name} has one view, which would then have no colours drawn"
        yield broken(WEAK, problem, "write false, or another preset", METHOD)


def _groups_fill_batch(job: JobSpec) -> Iterator[Broken]:
    batch, group, lanes = job.batch.size, group_of(job), job.data.lanes
    if batch % group:
        hint = f"write {_nearest_multiple(batch, group)}, or another data.group"
        yield broken(BATCH, f"{batch} is no multiple of the group of {group}", hint, GROUP)
    elif lanes != "auto" and batch % (group * lanes):
        near = max(each for each in range(1, min(lanes, batch // group) + 1) if batch // group % each == 0)
        problem = f"{lanes} lanes of groups of {group} do not divide the batch of {batch}"
        yield broken(LANES, problem, f"write {near}, or auto", BATCH, GROUP)


def _lanes_suffice_for_corpora(job: JobSpec) -> Iterator[Broken]:
    groups, lanes, corpora = job.batch.size // group_of(job), job.data.lanes, len(job.data.corpora)
    rule = f"for {corpora} corpora; each corpus needs a lane"
    if lanes == "auto" and 0 < groups < corpora:
        hint = "raise it, lower data.group, or drop corpora"
        yield broken(BATCH, f"{counted(groups, 'group')} a step {rule}", hint, GROUP, CORPORA, LANES)
    if lanes != "auto" and lanes < corpora:
        yield broken(LANES, f"{counted(lanes, 'lane')} {rule}", "raise it, or drop corpora", CORPORA)


def _whole_groups(job: JobSpec) -> Iterator[Broken]:
    group = group_of(job)
    for field, number in ((("data", "window"), job.data.window), (("batch", "micro"), job.batch.micro)):
        if number != "auto" and number % group:
            hint = f"write {_nearest_multiple(number, group)}, or auto"
            yield broken(field, f"{number} is no multiple of the group of {group}", hint, GROUP)


def _nodes(job: JobSpec) -> Iterator[Broken]:
    """At least one rank a node; the plan checks again with the profile's number of ranks a node, which may be more."""
    lanes, least = job.data.lanes, job.resources.nodes.least
    most, name = (job.batch.size // group_of(job), "groups a step") if lanes == "auto" else (lanes, "lanes")
    if least > most > 0:
        problem = f"{least} nodes have {least} ranks or more ({name}: {most}); a rank needs a lane"
        yield broken(NODES, problem, f"write {most} at most, or raise batch.size or data.lanes", BATCH, GROUP, LANES)


def _begins_somewhere(job: JobSpec) -> Iterator[Broken]:
    if job.init is None and getattr(job.method, "needs_init", False):
        hint = "write init: {run: NAME} or {url: FILE}, or take the method supervised"
        yield broken(("init",), f"null; {job.method.name} begins from a trained encoder", hint, METHOD)


def _lars_alone(job: JobSpec) -> Iterator[Broken]:
    """Decay would enter the ratios, and a clip would change nothing of a matrix's gradient that is scaled anyway."""
    decay = job.optim.weight_decay
    if job.optim.name == "lars" and (decay.start or decay.end):
        problem = f"{decay.start:g} to {decay.end:g}; optim.name: lars decays nothing"
        yield broken(("optim", "weight_decay"), problem, "write {start: 0, end: 0}", ("optim", "name"))
    if job.optim.name == "lars" and job.optim.clip is not None:
        problem = "optim.name: lars scales the gradients that it would clip"
        yield broken(("optim", "clip"), problem, "write null", ("optim", "name"))


def _auxiliary_has_tokens(job: JobSpec) -> Iterator[Broken]:
    if job.auxiliary is not None and not getattr(job.method, "takes_auxiliary", False):
        problem = f"relations of patches cannot be learned beside {job.method.name}"
        hint = f"leave it out, or choose one of {', '.join(that_take_auxiliary())}"
        yield broken(("auxiliary",), problem, hint, METHOD)


def _scores_mean_something(job: JobSpec) -> Iterator[Broken]:
    """The encoder changes, and what is scored is not what a method with classes learns by heart."""
    name, asked = job.method.name, job.evaluate
    if asked is None:
        return
    if not getattr(job.method, "trains_encoder", True):
        problem = f"{name} trains a head on an encoder that stays as it is, and so would its scores"
        yield broken(("evaluate",), problem, "leave it out", METHOD)
    elif wants_labels(job.method) and asked.bank is None and asked.corpus is None:
        problem = f"null; {name} trains on the classes of all its images, a tenth of which would be scored"
        yield broken(("evaluate", "corpus"), problem, "name a held-out corpus", METHOD, ("evaluate", "bank"))


def _masks_follow_views(job: JobSpec) -> Iterator[Broken]:
    if mask_table_of(job.method) is not None and job.data.augment.patches is not None:
        problem = f"patches are cropped by themselves; the masks of {job.method.name} would show another place"
        yield broken(("data", "augment", "patches"), problem, "write null", METHOD)


def _of_method(job: JobSpec) -> Iterator[Broken]:
    """A plug-in's options need not have rules."""
    rules = getattr(job.method, "broken_rules", None)
    if rules is not None:
        yield from rules(job.model, view_size(job), group_of(job))
