"""Text to token ids: the model's tokenizer and its chat template. No transformers on the usual path."""
