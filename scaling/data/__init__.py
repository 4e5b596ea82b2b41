"""Text to tokens to batches: documents, the TFDS builder, prepared folders, Grain pipelines."""
