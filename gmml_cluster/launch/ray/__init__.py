"""A Ray cluster: a driver places workers, each of which starts a rank, and decides after each attempt. Needs ray."""
