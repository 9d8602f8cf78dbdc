"""Words of messages. A leaf: everything may import it."""


def counted(number: int, noun: str) -> str:
    """A number and its noun, as in `1 shard` and `1,200 shards`; for nouns whose plural ends in s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
