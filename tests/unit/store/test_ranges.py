"""Where obstore asks for a bucket, beside where botocore asks for it with the same settings."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gmml_cluster.running_time import running_time
from gmml_cluster.store import requests

botocore = pytest.importorskip("botocore", reason="needs the extra s3")
pytest.importorskip("obstore", reason="needs the extra s3")
pytest.importorskip("s3fs", reason="needs the extra s3")  # imports the parts of botocore

ENDPOINTS = ["http://127.0.0.1:9000", "https://store.example:8443", "https://s3.eu-west-3.amazonaws.com"]
SETTINGS = [{}, {"AWS_USE_DUALSTACK_ENDPOINT": "true"}, *({"AWS_ENDPOINT_URL": url} for url in ENDPOINTS)]
REGIONS = ["us-east-1", "us-west-2", "eu-south-1", "cn-north-1"]
BUCKETS = ["bucket", "with.dots"]


class Asked(Exception):
    """Where a request would have gone."""


def address_by_botocore(client, bucket):
    def stop(request, **_):
        raise Asked(request.url)

    client.meta.events.register("before-send.s3.GetObject", stop)
    with pytest.raises(Asked) as found:
        client.get_object(Bucket=bucket, Key="key")
    return str(found.value)


@pytest.mark.parametrize("style", ["auto", "virtual", "path"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_buckets_are_asked_for_where_botocore_asks_for_them(monkeypatch, tmp_path, setting, style):
    (tmp_path / "config").write_text(f"[default]\ns3 =\n    addressing_style = {style}\n")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    given = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_CONFIG_FILE": str(tmp_path / "config")}
    for name, value in {**given, **setting}.items():
        monkeypatch.setenv(name, value)
    for region, bucket in itertools.product(REGIONS, BUCKETS):
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
        config = requests._connect().ranges._open(bucket).config
        inside = "" if config["virtual_hosted_style_request"] in (True, "true") else f"/{bucket}"
        client = botocore.session.get_session().create_client("s3")
        assert f"{config['endpoint']}{inside}/key" == address_by_botocore(client, bucket)
        assert config["region"] == client.meta.region_name


def test_a_client_without_credentials_of_its_own_is_asked_for_none(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", ENDPOINTS[0])
    client = requests._connect()
    client.system.anon = True
    assert client.ranges._open("bucket").config["skip_signature"] in (True, "true")


def test_threads_that_begin_at_once_open_a_bucket_once(monkeypatch):
    ranges, opened, together = requests._connect().ranges, [], threading.Barrier(8)

    def slowly(bucket):
        opened.append(bucket)
        time.sleep(0.1)
        return object()

    monkeypatch.setattr(ranges, "_open", slowly)

    def store(_):
        together.wait(240)
        return ranges._store("bucket")

    with ThreadPoolExecutor(8) as pool:
        assert len(set(map(id, pool.map(store, range(8))))) == 1
    assert opened == ["bucket"]


def test_reads_that_fail_together_count_as_one():
    ranges = requests._connect().ranges

    def serves():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(ranges.serves, "bucket").result()

    began = running_time()
    for _ in range(9):
        ranges.failed_alone("bucket", OSError("reset"), began)
    assert serves()
    for _ in range(2):
        ranges.failed_alone("bucket", OSError("reset"), running_time())
    assert not serves()
