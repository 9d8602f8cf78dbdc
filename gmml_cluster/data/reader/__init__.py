"""From a step's sample numbers to its batch: order, fetch, decode, crop, stream. Nothing of it is saved."""
