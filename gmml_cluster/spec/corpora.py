"""How a job file names shards, and the image of a sample."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from gmml_cluster.spec.base import Refused
from gmml_cluster.spec.braces import check_braces
from gmml_cluster.spec.scalars import check_location

_COLUMN = r"[A-Za-z_]\w*"
_IMAGE_FIELD = r"(?i:[^/.][^/]*\.)?(?i:jpg|jpeg|png|webp)"


def _shards(url: str) -> str:
    check_location(url)  # before the braces: ${HOME} is no bad range but a variable
    check_braces(url)
    return url


def _image_field(given: str) -> str:
    if re.fullmatch(_IMAGE_FIELD, given):
        return given.lower()
    if re.fullmatch(_COLUMN, given):
        return given
    rule = "a field is what follows the first dot of a member's name and ends in jpg, jpeg, png or webp"
    what = f"{given!r} names neither an image field of tars nor a column of parquet files; {rule}"
    raise Refused(what, "write left.jpg for 000017.left.jpg")


Shards = Annotated[str, Field(min_length=1), AfterValidator(_shards)]
"""A path or `s3://` URL, with `{000..131}` ranges or `*`, or a folder whose shards are listed."""
ImageField = Annotated[str, AfterValidator(_image_field)]
"""All of a member's name after the first dot, such as `left.jpg` of `000017.left.jpg`, or a column of parquet files."""
