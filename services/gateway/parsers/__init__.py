"""Structure within generated text: reasoning and tool calls, found while the text is still coming."""
