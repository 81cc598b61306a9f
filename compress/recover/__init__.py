"""Training a pruned model back towards the model it was cut from."""
