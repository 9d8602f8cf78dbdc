"""The section `notify`."""

import pytest

from gmml_cluster.errors import SpecError
from gmml_cluster.spec.identity import identity
from gmml_cluster.spec.loading.validate import dump, parse_job
from gmml_cluster.spec.notify import Notify
from tests.fixtures.submissions import TINY


def faults(notify):
    with pytest.raises(SpecError) as caught:
        parse_job({**TINY, "notify": notify})
    return [(fault.where, fault.problem) for fault in caught.value.faults]


def test_a_bare_value_is_meant_as_a_webhook_and_the_hint_says_so():
    with pytest.raises(SpecError) as caught:
        parse_job({**TINY, "notify": "https://a.example/x"})
    assert caught.value.faults[0].hint == 'write {webhook: "https://a.example/x"}'


@pytest.mark.parametrize("address", ["a.example/x", "ftp://a.example/x", "https://", "$", "$A B", "http://[::1"])
def test_what_is_no_address_is_refused_without_being_repeated(address):
    ((where, problem),) = faults({"webhook": address})
    assert where == "spec: notify.webhook"
    assert "neither an address nor a variable" in problem
    assert "a.example" not in problem


def test_a_section_that_names_nobody_is_refused():
    ((where, problem),) = faults({"webhook": None})
    assert (where, problem) == ("spec: notify", "neither webhook nor command given")


def test_only_a_value_that_begins_with_a_dollar_sign_names_a_variable():
    assert Notify(webhook="$HOOK").variable == "HOOK"
    assert Notify(webhook="https://a.example/x?y=$HOOK").variable is None
    assert Notify(command=("mail", "lab")).variable is None


def test_who_is_notified_makes_no_other_run():
    plain, notifying = (dump(parse_job({**TINY, "notify": notify})) for notify in (None, {"webhook": "$HOOK"}))
    assert identity(plain) == identity(notifying)
