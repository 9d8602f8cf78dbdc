"""What is drawn of a series hides none of its extremes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gmml_cluster.report.downsample import bucket_starts, reduce

values = arrays(np.float64, st.integers(1, 300), elements=st.floats(allow_infinity=False))
most = st.integers(1, 40)


@given(values, most)
def test_no_extreme_of_a_series_is_lost_and_each_stays_in_its_bucket(series, buckets):
    starts = bucket_starts(len(series), buckets)
    band = reduce(series, starts)
    ends = [*starts[1:], len(series)]
    for start, end, least, mean, greatest in zip(starts, ends, band.least, band.mean, band.greatest, strict=True):
        known = series[start:end][np.isfinite(series[start:end])]
        if len(known):
            assert (least, greatest) == (known.min(), known.max())
            assert least <= mean <= greatest
        else:
            assert np.isnan([least, mean, greatest]).all()


@given(st.integers(0, 10_000), st.integers(1, 500))
def test_buckets_cover_every_value_once_and_differ_by_one_at_most(count, buckets):
    starts = bucket_starts(count, buckets)
    assert len(starts) == min(count, buckets)
    sizes = np.diff([*starts, count])
    assert sizes.sum() == count
    assert not len(sizes) or (sizes.min() >= 1 and sizes.max() - sizes.min() <= 1)


def test_a_spike_of_one_step_in_a_hundred_thousand_is_drawn_as_high_as_it_was():
    series = np.ones(100_000)
    series[77_777], series[5] = 1e6, -3.0
    band = reduce(series, bucket_starts(len(series), 1000))
    assert band.greatest.max() == 1e6
    assert band.least.min() == -3.0
    assert band.greatest.argmax() == 777
