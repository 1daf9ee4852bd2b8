"""The shared network: encoder, cross-attention, classifiers, loss, first weights."""
