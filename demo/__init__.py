"""The demo model: its data generator, tokenizer, training loop, evaluation and, under model/, the result."""
