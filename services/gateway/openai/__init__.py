"""The OpenAI dialect, with vLLM's extensions: requests in, chunks and bodies out."""
