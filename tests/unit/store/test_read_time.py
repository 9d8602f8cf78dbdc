"""Times in a store's answers are read as botocore reads them."""

import pytest
from botocore.utils import parse_timestamp

from gmml_cluster.store.requests import read_time


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01T00:00:00.000Z",
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.123456+01:00",
        "Wed, 21 Oct 2026 07:28:00 GMT",
        "1700000000",
        1700000000,
    ],
)
def test_a_time_is_what_botocore_makes_of_it(text):
    assert read_time(text) == parse_timestamp(text)
    assert read_time(text).tzinfo is not None
