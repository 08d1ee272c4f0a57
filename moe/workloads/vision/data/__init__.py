"""Images: sources, decoding, augmentation, and batches of them."""
