"""How a job file names shards, and the image of a sample."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from gmml_cluster.spec.base import Refused
from gmml_cluster.spec.braces import check_braces
from gmml_cluster.spec.scalars import check_location

_IMAGE_FIELD = r"(?i:[^/.][^/]*\.)?(?i:jpg|jpeg|png|webp)"


def _shards(url: str) -> str:
    check_location(url)  # before the braces: ${HOME} is no bad range but a variable
    check_braces(url)
    return url


def _image_field(given: str) -> str:
    if not re.fullmatch(_IMAGE_FIELD, given):
        rule = "the field is what follows the first dot of a member's name and ends in jpg, jpeg, png or webp"
        raise Refused(f"{given!r} names no image field; {rule}", "write left.jpg for 000017.left.jpg")
    return given.lower()


Shards = Annotated[str, Field(min_length=1), AfterValidator(_shards)]
"""A path or `s3://` URL, with `{000..131}` ranges or `*`, or a folder whose shards are listed."""
ImageField = Annotated[str, AfterValidator(_image_field)]
"""All of a member's name after the first dot, such as `left.jpg` of `000017.left.jpg`."""
