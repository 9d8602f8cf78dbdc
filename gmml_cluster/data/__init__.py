"""Images and all that leads to a batch: corpora, order, decoding, crops; augmentation on a device, by torch."""
