"""Braces in the URL of a corpus."""

import re

import pytest

from gmml_cluster.spec.braces import expand_braces


@pytest.mark.parametrize(
    ("url", "urls"),
    [
        ("a.tar", ["a.tar"]),
        ("t-{008..011}.tar", ["t-008.tar", "t-009.tar", "t-010.tar", "t-011.tar"]),
        ("{a,b}/t-{0..1}.tar", ["a/t-0.tar", "a/t-1.tar", "b/t-0.tar", "b/t-1.tar"]),
        ("s3://b/{x,}/t.tar", ["s3://b/x/t.tar", "s3://b//t.tar"]),
    ],
)
def test_braces_expand_in_order_and_keep_zeros(url, urls):
    assert expand_braces(url) == urls


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("t-{5..3}.tar", "{5..3} is no range; it counts upwards"),
        ("t-{x}.tar", "{x} is no range; braces hold 000..131 or a,b"),
        ("t-{0..99999999}.tar", "it counts upwards to a million at most"),
        ("{0..9999}{0..9999}.tar", "more than 1,000,000 shards"),
        ("t-{0..3.tar", "'{' without its other half"),
        ("t-0..3}.tar", "'}' without its other half"),
        ("t-{a,b,a}.tar", "{a,b,a} names 'a' twice; each shard counts once"),
        ("t-{,}.tar", "{,} names '' twice"),
    ],
)
def test_braces_that_make_no_list_are_refused(url, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        expand_braces(url)
