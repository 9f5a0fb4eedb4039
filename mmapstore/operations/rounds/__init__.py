"""`augmented`: rounds of augmented, balanced samples, prepared by processes beside the training step."""
